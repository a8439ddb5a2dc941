#include <cstdint>
#include <cstring>

#include "common/api.h"
#include "common/pool.h"

extern "C" void quire_take_rows(quire::Pool* pool, const char* matrix, const int64_t* rows, char* out, long count,
                                long row_bytes) {
  pool->run_range(count, 0.1 * static_cast<double>(row_bytes), [&](long begin, long end) {
    for (long i = begin; i < end; ++i) std::memcpy(out + i * row_bytes, matrix + rows[i] * row_bytes, row_bytes);
  });
}
