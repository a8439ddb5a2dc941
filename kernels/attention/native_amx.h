// The two products of attention on AMX, for tiles of up to 16 rows. A panel of 16 keys is as deep as a tile for every 32
// dimensions of a head; one of 16 values has half of a tile's depth.
#pragma once

#if defined(__AMX_BF16__)

#include <algorithm>

#include "../native/amx.h"
#include "native.h"

namespace quire {

inline constexpr int kAmxPanels = 4;                // of keys, for whose scores there are tiles
inline constexpr long kAmxDims = kAmxPanels * 16;   // of a head, likewise
inline constexpr long kWeightStride = kSplit * 2, kScoreStride = kSplit * 4;  // bytes between rows

// Tiles 0 to 3 are sums, 4 queries and 5 keys, 6 weights and 7 values. `rows` is that of an item.
inline AmxShapes attention_shapes(long rows) {
  const long height = std::min(rows, kAmxRows);
  const AmxShape sums{height, 64}, queries{height, 64}, keys{kAmxRows, 64}, weights{height, 32}, values{kKeys / 2, 64};
  return {sums, sums, sums, sums, queries, keys, weights, values};
}

// By the head alone, so that a token is computed in one way whatever is beside it.
inline bool is_for_amx(long head_dim) { return head_dim % kAmxDepth == 0 && head_dim >= kAmxDims; }

// The first row of each tile; the last tile reaches back to rows that are there already, which come out the same.
template <class Body>
void each_amx_tile(long rows, const Body& body) {
  for (long r = 0; r < rows; r += kAmxRows) body(std::max(0L, std::min(r, rows - kAmxRows)));
}

// scores [rows][kSplit] of the queries [rows][dim] and kAmxPanels panels.
template <class Next>
void amx_scores(long rows, const bf16* queries, long dim, const bf16* const (&panels)[kAmxPanels], float* scores,
                const Next& ahead) {
  each_amx_tile(rows, [&](long row) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long d = 0; d < dim; d += kAmxDepth) {
      _tile_loadd(4, queries + row * dim + d, dim * 2);
      _tile_loadd(5, panels[0] + d * kKeys, 64);
      _tile_dpbf16ps(0, 4, 5);
      _tile_loadd(5, panels[1] + d * kKeys, 64);
      _tile_dpbf16ps(1, 4, 5);
      _tile_loadd(5, panels[2] + d * kKeys, 64);
      _tile_dpbf16ps(2, 4, 5);
      _tile_loadd(5, panels[3] + d * kKeys, 64);
      _tile_dpbf16ps(3, 4, 5);
      for (int i = 0; i < kAmxPanels; ++i) ahead();
    }
    float* to = scores + row * kSplit;
    _tile_stored(0, to, kScoreStride);
    _tile_stored(1, to + kKeys, kScoreStride);
    _tile_stored(2, to + 2 * kKeys, kScoreStride);
    _tile_stored(3, to + 3 * kKeys, kScoreStride);
  });
}

// output [rows][dim] of the weights [rows][kSplit] of the keys of `count` panels, for kAmxDims of a head from `first` on.
template <class Next>
void amx_output(long rows, const bf16* weights, const bf16* const* panels, long count, long first, long dim,
                float* output, const Next& ahead) {
  each_amx_tile(rows, [&](long row) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long i = 0; i < count; ++i) {
      const bf16* values = panels[i] + first * 2;
      _tile_loadd(6, weights + row * kSplit + i * kKeys, kWeightStride);
      _tile_loadd(7, values, dim * 4);
      _tile_dpbf16ps(0, 6, 7);
      _tile_loadd(7, values + 32, dim * 4);
      _tile_dpbf16ps(1, 6, 7);
      _tile_loadd(7, values + 64, dim * 4);
      _tile_dpbf16ps(2, 6, 7);
      _tile_loadd(7, values + 96, dim * 4);
      _tile_dpbf16ps(3, 6, 7);
      for (int v = 0; v < kAmxPanels; ++v) ahead();
    }
    float* to = output + row * dim + first;
    _tile_stored(0, to, dim * 4);
    _tile_stored(1, to + 16, dim * 4);
    _tile_stored(2, to + 32, dim * 4);
    _tile_stored(3, to + 48, dim * 4);
  });
}

}  // namespace quire

#endif
