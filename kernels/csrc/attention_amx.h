// The two products of attention on AMX, for tiles of up to 16 rows. A panel of 16 keys is as deep as a tile for every
// 32 dimensions of a head; one of 16 values has half of a tile's depth.
#pragma once

#if defined(__AMX_BF16__)

#include <algorithm>

#include "attention.h"
#include "common/amx.h"

namespace quire {

inline constexpr long kWeightStride = kSplit * 2, kScoreStride = kSplit * 4;  // bytes between rows

// Tiles 0 and 1 are sums, 2 queries and 3 keys, 4 weights and 5 values. `rows` is that of an item.
inline AmxShapes attention_shapes(long rows) {
  const long height = std::min(rows, kAmxRows);
  const AmxShape whole{height, 64}, keys{kAmxRows, 64}, weights{height, 32}, values{kKeys / 2, 64};
  return {whole, whole, whole, keys, weights, values};
}

// The first row of each tile; the last tile reaches back to rows that are there already, which come out the same.
template <class Body>
void each_amx_tile(long rows, const Body& body) {
  for (long r = 0; r < rows; r += kAmxRows) body(std::max(0L, std::min(r, rows - kAmxRows)));
}

// scores [rows][kSplit] of the queries [rows][dim] and two panels.
template <class Next>
void amx_scores(long rows, const bf16* queries, long dim, const bf16* keys, const bf16* keys_behind, float* scores,
                const Next& ahead) {
  each_amx_tile(rows, [&](long row) {
    _tile_zero(0);
    _tile_zero(1);
    for (long d = 0; d < dim; d += kAmxDepth) {
      _tile_loadd(2, queries + row * dim + d, dim * 2);
      _tile_loadd(3, keys + d * kKeys, 64);
      _tile_dpbf16ps(0, 2, 3);
      _tile_loadd(3, keys_behind + d * kKeys, 64);
      _tile_dpbf16ps(1, 2, 3);
      ahead();
      ahead();
    }
    float* to = scores + row * kSplit;
    _tile_stored(0, to, kScoreStride);
    _tile_stored(1, to + kKeys, kScoreStride);
  });
  _tile_zero(2);  // what is in use costs those that are loaded next
  _tile_zero(3);
}

// output [rows][dim] of the weights [rows][kSplit] of the keys of `count` panels.
template <class Next>
void amx_output(long rows, const bf16* weights, const bf16* const* panels, long count, long dim, float* output,
                const Next& ahead) {
  each_amx_tile(rows, [&](long row) {
    for (long d = 0; d < dim; d += kAmxDepth) {
      _tile_zero(0);
      _tile_zero(1);
      for (long i = 0; i < count; ++i) {
        const bf16* values = panels[i] + d * 2;
        _tile_loadd(4, weights + row * kSplit + i * kKeys, kWeightStride);
        _tile_loadd(5, values, dim * 4);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(5, values + kKeys * 2, dim * 4);
        _tile_dpbf16ps(1, 4, 5);
        ahead();
        ahead();
      }
      float* to = output + row * dim + d;
      _tile_stored(0, to, dim * 4);
      _tile_stored(1, to + kKeys, dim * 4);
    }
  });
  _tile_zero(4);
  _tile_zero(5);
}

}  // namespace quire

#endif
