// silu(gate) * up = gate / (1 + exp(-gate)) * up, in float32.

#include "../native/api.h"
#include "../native/pool.h"
#include "../native/simd.h"

namespace quire {
namespace {

template <class T>
void silu_mul(Pool& pool, const T* gate_up, T* out, long tokens, long size) {
  pool.run_range(tokens, 1.0 * static_cast<double>(size), [&](long begin, long end) {
    for (long t = begin; t < end; ++t) {
      const T *gate = gate_up + 2 * t * size, *up = gate + size;
      T* to = out + t * size;
      // The last vector is put together in a buffer where a whole one would reach beyond the row.
      for (long d = 0; d < size; d += kWidth) {
        const long count = size - d < kWidth ? size - d : kWidth;
        T parts[3][kWidth] = {};
        const bool whole = count == kWidth;
        if (!whole) {
          std::memcpy(parts[0], gate + d, count * sizeof(T));
          std::memcpy(parts[1], up + d, count * sizeof(T));
        }
        Vec g = load(whole ? gate + d : parts[0]), u = load(whole ? up + d : parts[1]);
        // Beyond 87 the exponential leaves float32; its reciprocal is nothing either way.
        Vec negative = -g;
        Vec value = g / (1.0f + exp(negative > 87.0f ? broadcast(87.0f) : negative)) * u;
        store(whole ? to + d : parts[2], value);
        if (!whole) std::memcpy(to + d, parts[2], count * sizeof(T));
      }
    }
  });
}

}  // namespace
}  // namespace quire

using quire::bf16;

extern "C" void quire_silu_mul(quire::Pool* pool, int is_bf16, const void* gate_up, void* out, long tokens, long size) {
  if (is_bf16) {
    quire::silu_mul(*pool, static_cast<const bf16*>(gate_up), static_cast<bf16*>(out), tokens, size);
  } else {
    quire::silu_mul(*pool, static_cast<const float*>(gate_up), static_cast<float*>(out), tokens, size);
  }
}
