// y = x W^T + b with W packed in panels of 32 columns, read front to back: at small batches memory is the bound,
// at large ones a tile of 12 rows keeps the multipliers busy while its panel stays in the second-level cache.
//
//   packed   [panel][k / kPack][32][kPack], zeros beyond the last column; kPack is that of the rows' type
//
// Where W is int8, y = (x W^T) * scale + b: the integers are widened to the rows' type, which is exact. Scale and bias
// reach to the end of the last panel. In a gated layer a panel is 16 columns of gates, then 16 of what they gate:
// y = silu(gate) * up, in float32.

#include <algorithm>
#include <vector>

#include "../native/api.h"
#include "../native/pool.h"
#include "../native/tile.h"

namespace quire {
namespace {

constexpr long kRowBytes = 256 * 1024;  // rows of x that one task keeps in the second-level cache
constexpr int kVecs = kPanel / kWidth;
constexpr long kTasksPerThread = 32;
constexpr long kLookAhead = 1024;  // bytes

long num_panels(long columns) { return (columns + kPanel - 1) / kPanel; }

template <class T, class W>
void pack(const W* weight, W* packed, long columns, long depth) {
  constexpr long kP = kPack<T>;
  for (long n = 0; n < num_panels(columns) * kPanel; ++n) {
    W* column = packed + n / kPanel * kPanel * depth + n % kPanel * kP;
    for (long k = 0; k < depth; ++k) column[k / kP * kPanel * kP + k % kP] = n < columns ? weight[n * depth + k] : W{};
  }
}

// A panel in the rows' type.
template <class T>
void widen_panel(const int8_t* panel, long size, T* wide) {
  for (long i = 0; i < size; i += kWidth) store(wide + i, load(panel + i));
}

// What becomes of a panel's sums: scale, bias, gate, and the result's type.
template <class Out>
struct Finish {
  const float *scale, *bias;  // of the panel's first column, or null
  int is_gated;
  long count;  // results in a row

  Vec value(const float* sums, long c) const {
    Vec x = load(sums + c);
    if (scale) x *= load(scale + c);
    return bias ? x + load(bias + c) : x;
  }

  void operator()(const float* sums, long rows, Out* y, long ldy) const {
    for (long r = 0; r < rows; ++r, sums += kPanel, y += ldy) {
      for (long c = 0; c < count; c += kWidth) {
        Vec x = value(sums, c);
        if (is_gated) x = silu(x) * value(sums, c + kPanel / 2);
        if (c + kWidth <= count) {
          store(y + c, x);
        } else {
          for (long i = c; i < count; ++i) y[i] = narrow<Out>(x[i - c]);
        }
      }
    }
  }
};

template <class T, class W, class Out>
struct Product {
  const T* x;
  const Matrix& matrix;
  Out* y;
  long rows;

  const W* panel_at(long panel) const { return static_cast<const W*>(matrix.packed) + panel * kPanel * matrix.depth; }

  // `panel_after` is what this thread will probably multiply by next.
  void compute(long row_begin, long row_end, long panel_begin, long panel_end, long panel_after) const {
    for (long panel = panel_begin; panel < panel_end; ++panel) {
      const W* packed = panel_at(panel);
      const W* next = panel_at(panel + 1 < panel_end ? panel + 1 : panel_after);
      if constexpr (sizeof(W) == 1) {
        if (row_end - row_begin > kTileRows) {  // widened once for all tiles
          thread_local std::vector<T> wide;
          wide.resize(kPanel * matrix.depth);
          widen_panel(packed, kPanel * matrix.depth, wide.data());
          multiply(row_begin, row_end, panel, wide.data(), next);
          continue;
        }
      }
      multiply(row_begin, row_end, panel, packed, next);
    }
  }

  // Rows in blocks of nearly equal height, at most a tile's.
  template <class B>
  void multiply(long row_begin, long row_end, long panel, const B* b, const W* next) const {
    alignas(64) float sums[kTileRows * kPanel];
    const long depth = matrix.depth, first = panel * kPanel;
    const long width = matrix.is_gated ? kPanel / 2 : kPanel;  // results of a panel
    const Finish<Out> finish{matrix.scale ? matrix.scale + first : nullptr, matrix.bias ? matrix.bias + first : nullptr,
                             matrix.is_gated, std::min(width, matrix.outputs - panel * width)};
    const B* vectors[kVecs];
    for (int v = 0; v < kVecs; ++v) vectors[v] = b + v * kWidth * kPack<T>;
    const Columns<B> columns{vectors, kVecs, 1, depth / kPack<T>, kPanel * kPack<T>};
    long height = row_end - row_begin;
    long blocks = (height + kTileRows - 1) / kTileRows;
    for (long block = 0; block < blocks; ++block) {
      long begin = row_begin + height * block / blocks, end = row_begin + height * (block + 1) / blocks;
      Out* to = y + begin * matrix.outputs + panel * width;
      // Of results nobody has the lines yet; fetched now, they are there when the sums are.
      for (long r = 0; r < end - begin; ++r) __builtin_prefetch(to + r * matrix.outputs, 1);
      any_tile<T, kVecs, kTileRows>(static_cast<int>(end - begin), x + begin * depth, depth, columns, sums, kPanel,
                                    ahead(panel, next, block, blocks));
      finish(sums, end - begin, to, matrix.outputs);
    }
  }

  // One block of rows waits for memory all the time, so it looks a little ahead. Several blocks wait for what the
  // first one meets: each fetches its share of the next panel instead.
  Ahead ahead(long panel, const W* next, long block, long blocks) const {
    constexpr long kStepBytes = kPanel * kPack<T> * static_cast<long>(sizeof(W));
    if (blocks == 1) return {reinterpret_cast<const char*>(panel_at(panel)) + kLookAhead, kStepBytes};
    const long share = kStepBytes / blocks;
    return {reinterpret_cast<const char*>(next) + block * share * (matrix.depth / kPack<T>), share};
  }

  void run(Pool& pool) const {
    if (rows == 0) return;
    long most = std::max<long>(kTileRows, kRowBytes / (matrix.depth * static_cast<long>(sizeof(T))));
    long row_parts = (rows + most - 1) / most;
    long panels = num_panels(matrix.columns);
    long panel_parts = std::clamp(kTasksPerThread * pool.num_threads() / row_parts, 1L, panels);
    pool.run_in_order(row_parts * panel_parts, [&](long task) {
      long r = task / panel_parts, p = task % panel_parts;
      auto panel = [&](long part) { return panels * part / panel_parts; };
      compute(rows * r / row_parts, rows * (r + 1) / row_parts, panel(p), panel(p + 1), panel((p + 1) % panel_parts));
    });
  }
};

template <class T, class Out>
void multiply(Pool& pool, const void* x, const Matrix& matrix, void* y, long rows) {
  if (matrix.scale) {
    Product<T, int8_t, Out>{static_cast<const T*>(x), matrix, static_cast<Out*>(y), rows}.run(pool);
  } else {
    Product<T, T, Out>{static_cast<const T*>(x), matrix, static_cast<Out*>(y), rows}.run(pool);
  }
}

}  // namespace
}  // namespace quire

using quire::bf16;

extern "C" {

void quire_linear_pack(int is_bf16, int is_int8, const void* weight, void* packed, long columns, long depth) {
  auto run = [&]<class T, class W>(T, W) {
    quire::pack<T>(static_cast<const W*>(weight), static_cast<W*>(packed), columns, depth);
  };
  if (is_int8) {
    is_bf16 ? run(bf16{}, int8_t{}) : run(float{}, int8_t{});
  } else {
    is_bf16 ? run(bf16{}, bf16{}) : run(float{}, float{});
  }
}

void quire_linear(quire::Pool* pool, int is_bf16, int out_is_bf16, const void* x, const quire::Matrix* matrix, void* y,
                  long rows) {
  if (!is_bf16) {
    quire::multiply<float, float>(*pool, x, *matrix, y, rows);
  } else if (out_is_bf16) {
    quire::multiply<bf16, bf16>(*pool, x, *matrix, y, rows);
  } else {
    quire::multiply<bf16, float>(*pool, x, *matrix, y, rows);
  }
}
}
