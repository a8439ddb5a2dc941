// One pass for the sum and its squares, one for the product; arithmetic and mean in float32.

#include <cmath>

#include "common/api.h"
#include "common/pool.h"
#include "common/simd.h"

namespace quire {
namespace {

// `residual` and `total` are null where there is nothing to add. Rows of x are `x_stride` apart, others dense.
template <class T, class W>
struct RmsNorm {
  const T *x, *residual;
  const W* weight;
  T *out, *total;
  long heads, size, x_stride;  // x is [tokens][heads][size], x_stride between tokens
  float eps;

  void row(long index) const {
    const T* from = x + index / heads * x_stride + index % heads * size;
    const T* other = residual ? residual + index * size : nullptr;
    T* added = residual ? total + index * size : nullptr;
    const T* input = residual ? added : from;
    float squares = 0;
    Vec sums = {};
    long d = 0;
    for (; d + kWidth <= size; d += kWidth) {
      if (residual) store(added + d, load(from + d) + load(other + d));
      const Vec rounded = load(input + d);
      sums += rounded * rounded;
    }
    for (; d < size; ++d) {
      if (residual) added[d] = narrow<T>(widen(from[d]) + widen(other[d]));
      squares += widen(input[d]) * widen(input[d]);
    }
    const float scale = 1 / std::sqrt((squares + sum(sums)) / static_cast<float>(size) + eps);
    T* to = out + index * size;
    for (d = 0; d + kWidth <= size; d += kWidth) store(to + d, load(input + d) * scale * load(weight + d));
    for (; d < size; ++d) to[d] = narrow<T>(widen(input[d]) * scale * widen(weight[d]));
  }
};

template <class T, class W>
void normalize(Team& team, const void* x, const void* residual, const void* weight, void* out, void* total, long tokens,
               long heads, long size, long x_stride, float eps) {
  RmsNorm<T, W> norm{static_cast<const T*>(x),
                     static_cast<const T*>(residual),
                     static_cast<const W*>(weight),
                     static_cast<T*>(out),
                     static_cast<T*>(total),
                     heads,
                     size,
                     x_stride,
                     eps};
  team.run_range(tokens * heads, 0.3 * static_cast<double>(size), [&](long begin, long end) {
    for (long i = begin; i < end; ++i) norm.row(i);
  });
}

}  // namespace

void rms_norm(Team& team, int is_bf16, int is_weight_bf16, const void* x, const void* residual, const void* weight,
              void* out, void* total, long tokens, long heads, long size, long x_stride, float eps) {
  auto* run = !is_bf16 ? &normalize<float, float> : is_weight_bf16 ? &normalize<bf16, bf16> : &normalize<bf16, float>;
  run(team, x, residual, weight, out, total, tokens, heads, size, x_stride, eps);
}

}  // namespace quire

extern "C" void quire_rms_norm(quire::Pool* pool, int is_bf16, int is_weight_bf16, const void* x, const void* residual,
                               const void* weight, void* out, void* total, long tokens, long heads, long size,
                               long x_stride, float eps) {
  pool->together([&](quire::Team& team) {
    quire::rms_norm(team, is_bf16, is_weight_bf16, x, residual, weight, out, total, tokens, heads, size, x_stride, eps);
  });
}
