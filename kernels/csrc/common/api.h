// The C interface, as Python calls it and as fused kernels do. Pointers to void are float32 or bf16 by `is_bf16`;
// what the arguments are stands where the functions are defined.
#pragma once

#include <cstdint>

namespace quire {
class Pool;
class Team;
struct Plan;

// How half of a panel's columns gate the other half, as kernels/activation.py says.
enum class Gate : int { kNone, kSilu, kGeluTanh, kClampedSwiglu };

struct Activation {
  Gate gate;
  float alpha, limit;
};

// What an adapter adds to a product, as in native/adapters.py: adapters.h says how.
struct Adapter {
  const void *down, *up;  // down: null, nothing is added
  const int32_t* first;   // of each panel
  long rank, count, shift;
};

// Of each row of a product the place of its adapter, negative: it has none; and room for [rows, stride] floats.
struct AdapterRows {
  const int32_t* places;
  float* room;
  long stride;
};

// A linear layer, as in native/linear.py: packed panels; int8 where there is a scale for each column; int4 where there
// is a group, with scale and zero for each group of `group` k; bias or null; adapters by place, or null. In a gated one
// `outputs` is at most half of `columns`.
struct Matrix {
  const void* packed;
  const float* scale;
  const uint8_t* zero;
  const float* bias;
  const Adapter* adapters;
  long columns, depth, outputs, group;
  Activation activation;

  bool is_gated() const { return activation.gate != Gate::kNone; }
};

// What a decoder block consists of. Every thread of the team calls it, with the same arguments.
// `adapted` is null where no row has an adapter.
void linear(Team& team, int is_bf16, int out_is_bf16, const void* x, long x_stride, const Matrix& matrix, void* y,
            long y_stride, long rows, const AdapterRows* adapted);
void rms_norm(Team& team, int is_bf16, int is_weight_bf16, const void* x, const void* residual, const void* weight,
              void* out, void* total, long tokens, long heads, long size, long x_stride, float eps);
void append(Team& team, const Plan& plan, int is_bf16, void* cache, void* q, void* k, const void* v, long q_stride,
            long k_stride, long v_stride, const float* cos_sin, const int64_t* positions, const int64_t* slots,
            long num_tokens);
void attention(Team& team, Plan& plan, int is_bf16, const void* cache, const void* q, long q_stride, void* out,
               const float* sinks = nullptr);
}  // namespace quire

extern "C" {

// To be asked before anything else is called.
int quire_is_permitted();

quire::Pool* quire_pool_new(int num_threads);
void quire_pool_delete(quire::Pool* pool);

void quire_linear_pack(int is_bf16, int is_int8, const void* weight, void* packed, long columns, long depth);
void quire_linear(quire::Pool* pool, int is_bf16, int out_is_bf16, const void* x, long x_stride,
                  const quire::Matrix* matrix, void* y, long y_stride, long rows, const quire::AdapterRows* adapted);

void quire_experts(quire::Pool* pool, int is_bf16, const void* x, const quire::Matrix* gate_up,
                   const quire::Matrix* down, long num_experts, const int64_t* expert_ids, const float* weights,
                   long tokens, long top_k, void* out);

void quire_rms_norm(quire::Pool* pool, int is_bf16, int is_weight_bf16, const void* x, const void* residual,
                    const void* weight, void* out, void* total, long tokens, long heads, long size, long x_stride,
                    float eps);
void quire_take_rows(quire::Pool* pool, const char* matrix, const int64_t* rows, char* out, long count, long row_bytes);
void quire_sample(quire::Pool* pool, const float* logits, long num_rows, long size, long num_drawn,
                  const int64_t* drawn, const float* temperature, const int64_t* seed, const int64_t* position,
                  long num_filtered, const int64_t* filtered, const int64_t* top_k, const float* top_p,
                  const float* min_p, int64_t* tokens);
void quire_penalize(quire::Pool* pool, float* logits, long size, long num_rows, const int64_t* rows,
                    const int64_t* slots, const int32_t* counts, const float* presence, const float* frequency,
                    const float* repetition);
void quire_logprobs(quire::Pool* pool, const float* logits, long size, const int64_t* tokens, long num_rows,
                    const int64_t* rows, long num_top, float* values, int32_t* top_ids);

quire::Plan* quire_attention_new(int num_qo_heads, int num_kv_heads, int head_dim, int block_size, int window,
                                 int latent_dim, float divisor, float soft_cap);
void quire_attention_delete(quire::Plan* plan);
long quire_attention_plan(quire::Plan* plan, int num_threads, int num_rows, const int32_t* qo_indptr,
                          const int32_t* kv_indptr, const int32_t* kv_indices, const int32_t* kv_lens);
void quire_attention_append(const quire::Plan* plan, quire::Pool* pool, int is_bf16, void* cache, void* q, void* k,
                            const void* v, long q_stride, long k_stride, long v_stride, const float* cos_sin,
                            const int64_t* positions, const int64_t* slots, long num_tokens);
void quire_attention_run(quire::Plan* plan, quire::Pool* pool, int is_bf16, const void* cache, const void* q,
                         long q_stride, void* out, const float* sinks);
}
