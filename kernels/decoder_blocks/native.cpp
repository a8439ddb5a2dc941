// The operations of a step, one after the other, without going back to Python between them.

#include "../native/api.h"

// As in native.py. q_norm and k_norm are both there or both null.
struct Block {
  quire::Matrix qkv, output, gate_up, down;
  const void *q_norm, *k_norm, *mlp_norm, *next_norm;
  quire::Plan* attention;
  void* layer_kv;
};

struct Sizes {
  long num_blocks, hidden, num_qo_heads, num_kv_heads, head_dim;
  int is_bf16;
  float eps;
};

// x and residual are in and out; the others are room for [num_tokens, size of the last dimension] each.
struct Buffers {
  void *x, *residual, *qkv, *q, *k, *attended, *gated;
};

namespace {

struct Step {
  quire::Pool* pool;
  const Sizes& sizes;
  const Buffers& b;
  const float* cos_sin;
  const int64_t *positions, *slots;
  long tokens;

  void linear(const void* x, const quire::Matrix& matrix, void* y) const {
    quire_linear(pool, sizes.is_bf16, sizes.is_bf16, x, &matrix, y, tokens);
  }

  void add_norm(const void* x, const void* weight, void* out) const {
    quire_rms_norm(pool, sizes.is_bf16, x, b.residual, weight, out, b.residual, tokens, 1, sizes.hidden, sizes.hidden,
                   sizes.eps);
  }

  void attend(const Block& block) const {
    const long dim = sizes.head_dim, width = sizes.is_bf16 ? 2 : 4;
    const long q_size = sizes.num_qo_heads * dim, kv_size = sizes.num_kv_heads * dim, row = q_size + 2 * kv_size;
    linear(b.x, block.qkv, b.qkv);
    char* merged = static_cast<char*>(b.qkv);
    void *q = merged, *k = merged + q_size * width, *v = merged + (q_size + kv_size) * width;
    long q_stride = row, k_stride = row;
    if (block.q_norm) {
      quire_rms_norm(pool, sizes.is_bf16, q, nullptr, block.q_norm, b.q, nullptr, tokens, sizes.num_qo_heads, dim, row,
                     sizes.eps);
      quire_rms_norm(pool, sizes.is_bf16, k, nullptr, block.k_norm, b.k, nullptr, tokens, sizes.num_kv_heads, dim, row,
                     sizes.eps);
      q = b.q, k = b.k, q_stride = q_size, k_stride = kv_size;
    }
    quire_attention_append(block.attention, pool, sizes.is_bf16, block.layer_kv, q, k, v, q_stride, k_stride, row,
                           cos_sin, positions, slots, tokens);
    quire_attention_run(block.attention, pool, sizes.is_bf16, block.layer_kv, q, q_stride, b.attended);
    linear(b.attended, block.output, b.x);
  }

  void feed_forward(const Block& block) const {
    linear(b.x, block.gate_up, b.gated);
    linear(b.gated, block.down, b.x);
  }
};

}  // namespace

extern "C" void quire_decoder_blocks(quire::Pool* pool, const Block* blocks, const Sizes* sizes, const Buffers* buffers,
                                     const float* cos_sin, const int64_t* positions, const int64_t* slots, long tokens) {
  const Step step{pool, *sizes, *buffers, cos_sin, positions, slots, tokens};
  for (long i = 0; i < sizes->num_blocks; ++i) {
    step.attend(blocks[i]);
    step.add_norm(buffers->x, blocks[i].mlp_norm, buffers->x);
    step.feed_forward(blocks[i]);
    step.add_norm(buffers->x, blocks[i].next_norm, buffers->x);
  }
}
