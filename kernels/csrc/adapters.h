// What low-rank adapters add to a product, as in kernels/adapters.py: x down^T up^T, of a row with an adapter.
//
//   down    [depth / kPack][rank][kPack], of the rows' type; rank is a multiple of kRanks
//   up      [panel][count][kPanel], of the rows' type, panels as those of the matrix
//   first   of each panel: which rank comes first there; `shift` further in its upper half
//
// A job multiplies by `down`, into the room of the rows. Tiles of the product itself multiply this by `up`, and add it
// to their sums behind scale and bias. All in float32, in the order of depth and rank, for any number of rows.
#pragma once

#include <algorithm>

#include "common/api.h"
#include "common/team.h"
#include "common/tile.h"

namespace quire {

inline constexpr long kRanks = 16;

template <class T>
void project_down(Team& team, const T* x, long x_stride, const Matrix& matrix, long rows, const AdapterRows& adapted) {
  const long widths = adapted.stride / kWidth;
  const long height = std::clamp<long>(rows * widths / (4L * team.num_threads()), 1, kTileRows);
  const long blocks = (rows + height - 1) / height;
  auto run_of = [&](long row, long end) {  // of rows with one adapter
    long after = row + 1;
    while (after < end && adapted.places[after] == adapted.places[row]) ++after;
    return after;
  };
  team.run(blocks * widths, [&](long task) {
    const long at = task % widths * kWidth, begin = task / widths * height, end = std::min(begin + height, rows);
    for (long row = begin, after; row < end; row = after) {
      after = run_of(row, end);
      if (adapted.places[row] < 0) continue;
      const Adapter& adapter = matrix.adapters[adapted.places[row]];
      if (!adapter.down || at >= adapter.rank) continue;
      const T* vector = static_cast<const T*>(adapter.down) + at * kPack<T>;
      const Columns<T> columns{&vector, 1, 1, matrix.depth / kPack<T>, adapter.rank * kPack<T>};
      any_tile<T, 1, kTileRows>(static_cast<int>(after - row), x + row * x_stride, x_stride, columns,
                                adapted.room + row * adapted.stride + at, adapted.stride, [] {});
    }
  });
}

// What is added to some rows of a panel, [rows, kPanel].
template <class T>
void project_up(const Matrix& matrix, const AdapterRows& adapted, long panel, long begin, long rows, float* added) {
  constexpr int kVecs = kPanel / kWidth;
  for (long row = begin; row < begin + rows; ++row, added += kPanel) {
    Vec sums[kVecs] = {};
    const long place = adapted.places[row];
    if (place >= 0 && matrix.adapters[place].down) {
      const Adapter& adapter = matrix.adapters[place];
      const float* lower = adapted.room + row * adapted.stride + adapter.first[panel];
      const float* upper = lower + adapter.shift;
      const T* up = static_cast<const T*>(adapter.up) + panel * adapter.count * kPanel;
      for (long i = 0; i < adapter.count; ++i, up += kPanel)
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) sums[v] += (2 * v < kVecs ? lower[i] : upper[i]) * load(up + v * kWidth);
    }
    for (int v = 0; v < kVecs; ++v) store(added + v * kWidth, sums[v]);
  }
}

}  // namespace quire
