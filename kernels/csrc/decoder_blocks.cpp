// The operations of a step, one after the other, without going back to Python between them.

#include <cstring>

#include "common/api.h"
#include "common/pool.h"

// As in native/decoder_blocks.py. q_norm and k_norm are both there or both null.
struct Block {
  quire::Matrix qkv, output, gate_up, down;
  const void *q_norm, *k_norm, *mlp_norm, *next_norm;
  quire::Plan* attention;
  void* layer_kv;
};

struct Sizes {
  long num_blocks, hidden, num_qo_heads, num_kv_heads, head_dim;
  long gated_stride;  // between tokens
  int is_bf16;
  float eps;
};

// x and residual are in and out; the others are room for [num_tokens, size of the last dimension] each, of `gated` for
// [num_tokens, gated_stride].
struct Buffers {
  void *x, *residual, *qkv, *q, *k, *attended, *gated;
};

namespace {

// One thread's way through a step.
struct Step {
  quire::Team& team;
  const Sizes& sizes;
  const Buffers& b;
  const float* cos_sin;
  const int64_t *positions, *slots;
  long tokens;
  const quire::AdapterRows* adapted;  // or null

  void linear(const void* x, const quire::Matrix& matrix, void* y) const {
    linear(x, matrix.depth, matrix, y, matrix.outputs);
  }

  void linear(const void* x, long x_stride, const quire::Matrix& matrix, void* y, long y_stride) const {
    quire::linear(team, sizes.is_bf16, sizes.is_bf16, x, x_stride, matrix, y, y_stride, tokens, adapted);
  }

  void add_norm(const void* x, const void* weight, void* out) const {
    quire::rms_norm(team, sizes.is_bf16, sizes.is_bf16, x, b.residual, weight, out, b.residual, tokens, 1, sizes.hidden,
                    sizes.hidden, sizes.eps);
  }

  // Queries, keys and values of every token; the keys and values are then in the cache.
  void attend(const Block& block) const {
    const long dim = sizes.head_dim, width = sizes.is_bf16 ? 2 : 4;
    const long q_size = sizes.num_qo_heads * dim, kv_size = sizes.num_kv_heads * dim, row = q_size + 2 * kv_size;
    linear(b.x, block.qkv, b.qkv);
    char* merged = static_cast<char*>(b.qkv);
    void *q = merged, *k = merged + q_size * width, *v = merged + (q_size + kv_size) * width;
    long q_stride = row, k_stride = row;
    if (block.q_norm) {
      quire::rms_norm(team, sizes.is_bf16, sizes.is_bf16, q, nullptr, block.q_norm, b.q, nullptr, tokens,
                      sizes.num_qo_heads, dim, row, sizes.eps);
      quire::rms_norm(team, sizes.is_bf16, sizes.is_bf16, k, nullptr, block.k_norm, b.k, nullptr, tokens,
                      sizes.num_kv_heads, dim, row, sizes.eps);
      q = b.q, k = b.k, q_stride = q_size, k_stride = kv_size;
    }
    quire::append(team, *block.attention, sizes.is_bf16, block.layer_kv, q, k, v, q_stride, k_stride, row, cos_sin,
                  positions, slots, tokens);
    quire::attention(team, *block.attention, sizes.is_bf16, block.layer_kv, q, q_stride, b.attended);
  }

  // Goes on with some tokens only, in ascending order.
  void keep(const int64_t* rows, long num_rows, const quire::AdapterRows* kept) {
    const long width = sizes.is_bf16 ? 2 : 4;
    auto move = [&](void* matrix, long columns) {
      char* to = static_cast<char*>(matrix);
      const long size = columns * width;
      for (long i = 0; i < num_rows; ++i) std::memmove(to + i * size, to + rows[i] * size, size);
    };
    team.run(1, [&](long) {
      move(b.attended, sizes.num_qo_heads * sizes.head_dim);
      move(b.residual, sizes.hidden);
    });
    tokens = num_rows, adapted = kept;
  }

  void feed_forward(const Block& block) const {
    linear(b.attended, block.output, b.x);
    add_norm(b.x, block.mlp_norm, b.x);
    linear(b.x, block.gate_up.depth, block.gate_up, b.gated, sizes.gated_stride);
    linear(b.gated, sizes.gated_stride, block.down, b.x, sizes.hidden);
    add_norm(b.x, block.next_norm, b.x);
  }
};

}  // namespace

// `rows` are the tokens whose results are wanted: x gets those, one behind the other. `adapted` are the adapters of all
// tokens, `kept` of these rows; both are null where no token has one.
extern "C" void quire_decoder_blocks(quire::Pool* pool, const Block* blocks, const Sizes* sizes, const Buffers* buffers,
                                     const float* cos_sin, const int64_t* positions, const int64_t* slots, long tokens,
                                     const int64_t* rows, long num_rows, const quire::AdapterRows* adapted,
                                     const quire::AdapterRows* kept) {
  pool->together([&](quire::Team& team) {
    Step step{team, *sizes, *buffers, cos_sin, positions, slots, tokens, adapted};
    for (long i = 0; i < sizes->num_blocks; ++i) {
      step.attend(blocks[i]);
      // Behind the last attention no token needs another one.
      if (i + 1 == sizes->num_blocks && num_rows < tokens) step.keep(rows, num_rows, kept);
      step.feed_forward(blocks[i]);
    }
  });
}
