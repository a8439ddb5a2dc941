// What penalties.py describes.

#include <cstdint>

#include "common/api.h"
#include "common/pool.h"

extern "C" void quire_penalize(quire::Pool* pool, float* logits, long size, long num_rows, const int64_t* rows,
                               const int64_t* slots, const int32_t* counts, const float* presence,
                               const float* frequency, const float* repetition) {
  pool->run(num_rows, [&](long row) {
    float* x = logits + rows[row] * size;
    const int32_t* count = counts + slots[row] * size;
    const double once = presence[row], each = frequency[row], factor = repetition[row];
    for (long i = 0; i < size; ++i) {
      if (count[i] == 0) continue;
      const double value = x[i], generated = count[i] / 2;
      const double repeated = value > 0 ? value / factor : value * factor;
      x[i] = static_cast<float>(repeated - ((generated > 0 ? once : 0) + each * generated));
    }
  });
}
