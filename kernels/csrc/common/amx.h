// Products of bf16 on AMX (Intel's SDM, volume 1, chapter 18): a tile of 16 rows and 64 bytes is a register.
//
//   A   [rows][32] of a few rows, B   [16][columns][2] as panels are packed, C   [rows][16] float32
//
// The processor loads the next tiles into empty ones while it multiplies. With all eight in use, products take twice as
// long as with four, unless the core's other hardware thread uses no tiles (benchmarks/amx_tiles.cpp). Zeroed ones hold
// nothing.
//
// A step adds 32 products to each sum: those of even and of odd k apart, then both. That order is the same for any
// number of rows. So here, too, a row's result does not depend on its batch.
#pragma once

#if defined(__AMX_BF16__)

#include <algorithm>
#include <array>

#include "tile.h"

namespace quire {

inline constexpr long kAmxRows = 16, kAmxDepth = 32;

// By the depth alone, so that a row is computed in one way whatever is beside it.
inline bool is_for_amx(long depth) { return depth % kAmxDepth == 0; }

struct AmxShape {
  long rows, row_bytes;  // at most 16 and 64
};

using AmxShapes = std::array<AmxShape, 8>;

// While it lives, this thread's tiles have these shapes.
class AmxTiles {
 public:
  explicit AmxTiles(const AmxShapes& shapes) {
    struct alignas(64) {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } config = {};
    config.palette = 1;
    for (int t = 0; t < 8; ++t) {
      config.row_bytes[t] = static_cast<uint16_t>(shapes[t].row_bytes);
      config.rows[t] = static_cast<uint8_t>(shapes[t].rows);
    }
    // Not by its intrinsic: GCC 12's says that it reads eight bytes only, so that the other stores may be dropped.
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  ~AmxTiles() { _tile_release(); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;
};

// Tiles 0 and 1 are C, 2 A and 3 B of a product by panels of weights.
inline AmxShapes linear_shapes(long rows) {
  const AmxShape a{std::min(kAmxRows, rows), 64}, b{kAmxRows, 64};
  return {a, a, a, b};
}

// A tile of rows times `steps` times 32 k of a panel, added to the sums [rows][kPanel], which begin with zero where
// `is_first`. `b(step)` is where the panel's next 32 k begin; `beside()` is called once a step. Rows are read in a way
// that does not displace the panel in the first-level cache. A function of its own, so that its loop has all registers.
// Spilled registers would wait in memory behind results that wait for their cache lines.
template <class B, class Beside>
[[gnu::noinline]] void amx_tile(const bf16* a, long lda, long steps, B b, float* sums, bool is_first, Beside& beside) {
  constexpr long kBytes = kPanel * 4;  // from one pair of k to the next, and of a row of sums
  const long stride = lda * 2;
  Beside kept = beside;
  if (is_first) {
    _tile_zero(0);
    _tile_zero(1);
  } else {
    _tile_loadd(0, sums, kBytes);
    _tile_loadd(1, sums + kPanel / 2, kBytes);
  }
  for (long i = 0; i < steps; ++i, a += kAmxDepth) {
    const bf16* columns = b(i);
    _tile_stream_loadd(2, a, stride);
    _tile_loadd(3, columns, kBytes);
    _tile_dpbf16ps(0, 2, 3);
    _tile_loadd(3, columns + kPanel, kBytes);
    _tile_dpbf16ps(1, 2, 3);
    kept();
  }
  beside = kept;
  _tile_stored(0, sums, kBytes);
  _tile_stored(1, sums + kPanel / 2, kBytes);
}

}  // namespace quire

#endif
