// y = x W^T + b with W packed in panels of 32 columns, read front to back: at small batches memory is the bound,
// at large ones a tile of 12 rows keeps the multipliers busy while its panel stays in the second-level cache.
//
//   packed   [panel][k / kPack][32][kPack], zeros beyond the last column

#include <algorithm>

#include "../native/api.h"
#include "../native/pool.h"
#include "../native/tile.h"

namespace quire {
namespace {

constexpr long kRowBytes = 256 * 1024;  // rows of x that one task keeps in the second-level cache
constexpr long kTasksPerThread = 32;

long num_panels(long columns) { return (columns + kPanel - 1) / kPanel; }

template <class T>
void pack(const T* weight, T* packed, long columns, long depth) {
  constexpr long kP = kPack<T>;
  for (long n = 0; n < num_panels(columns) * kPanel; ++n) {
    T* column = packed + n / kPanel * kPanel * depth + n % kPanel * kP;
    for (long k = 0; k < depth; ++k) column[k / kP * kPanel * kP + k % kP] = n < columns ? weight[n * depth + k] : T{};
  }
}

template <class Out>
void finish(const float* sums, const float* bias, long rows, long columns, Out* y, long ldy) {
  for (long r = 0; r < rows; ++r) {
    const float* from = sums + r * kPanel;
    Out* to = y + r * ldy;
    long c = 0;
    for (; c + kWidth <= columns; c += kWidth) store(to + c, bias ? load(from + c) + load(bias + c) : load(from + c));
    for (; c < columns; ++c) to[c] = narrow<Out>(bias ? from[c] + bias[c] : from[c]);
  }
}

template <class T, class Out>
struct Product {
  const T* x;
  const T* packed;
  const float* bias;
  Out* y;
  long rows, columns, depth;

  // Rows in blocks of nearly equal height, at most a tile's.
  void compute(long row_begin, long row_end, long panel_begin, long panel_end) const {
    alignas(64) float sums[kTileRows * kPanel];
    long height = row_end - row_begin;
    long blocks = (height + kTileRows - 1) / kTileRows;
    for (long panel = panel_begin; panel < panel_end; ++panel) {
      const T* b = packed + panel * kPanel * depth;
      long first = panel * kPanel;
      for (long block = 0; block < blocks; ++block) {
        long begin = row_begin + height * block / blocks, end = row_begin + height * (block + 1) / blocks;
        any_tile<T, kPanel>(static_cast<int>(end - begin), x + begin * depth, depth,
                            Segments<T>{&b, 1, depth / kPack<T>}, kPanel * kPack<T>, sums, kPanel);
        finish(sums, bias ? bias + first : nullptr, end - begin, std::min<long>(kPanel, columns - first),
               y + begin * columns + first, columns);
      }
    }
  }

  void run(Pool& pool) const {
    if (rows == 0) return;
    long most = std::max<long>(kTileRows, kRowBytes / (depth * static_cast<long>(sizeof(T))));
    long row_parts = (rows + most - 1) / most;
    long panels = num_panels(columns);
    long panel_parts = std::clamp(kTasksPerThread * pool.num_threads() / row_parts, 1L, panels);
    pool.run(row_parts * panel_parts, [&](long task) {
      long r = task / panel_parts, p = task % panel_parts;
      compute(rows * r / row_parts, rows * (r + 1) / row_parts, panels * p / panel_parts, panels * (p + 1) / panel_parts);
    });
  }
};

}  // namespace
}  // namespace quire

using quire::bf16;

extern "C" {

void quire_linear_pack(int is_bf16, const void* weight, void* packed, long columns, long depth) {
  if (is_bf16) {
    quire::pack(static_cast<const bf16*>(weight), static_cast<bf16*>(packed), columns, depth);
  } else {
    quire::pack(static_cast<const float*>(weight), static_cast<float*>(packed), columns, depth);
  }
}

void quire_linear(quire::Pool* pool, int is_bf16, int out_is_bf16, const void* x, const void* packed, const float* bias,
                  void* y, long rows, long columns, long depth) {
  auto run = [&]<class T, class Out>(T, Out) {
    quire::Product<T, Out>{static_cast<const T*>(x), static_cast<const T*>(packed), bias, static_cast<Out*>(y),
                           rows, columns, depth}.run(*pool);
  };
  if (!is_bf16) {
    run(float{}, float{});
  } else if (out_is_bf16) {
    run(bf16{}, bf16{});
  } else {
    run(bf16{}, float{});
  }
}
}
