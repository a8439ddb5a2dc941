// y = x W^T + b with W packed in panels of 32 columns, read front to back: at small batches memory is the bound,
// at large ones a tile of 12 rows keeps the multipliers busy while its panel stays in the second-level cache.
//
//   packed   [panel][k / kPack][32][kPack], zeros beyond the last column; kPack is that of the rows' type
//
// Where W is int8, y = (x W^T) * scale + b: the integers are widened to the rows' type, which is exact. Scale and bias
// reach to the end of the last panel. In a gated layer a panel is 16 columns of gates, then 16 of what they gate:
// y = silu(gate) * up, in float32.

#include <algorithm>
#include <optional>

#include "../native/amx.h"
#include "../native/api.h"
#include "../native/lines.h"
#include "../native/pool.h"
#include "../native/tile.h"

namespace quire {
namespace {

constexpr long kRowBytes = 256 * 1024;  // rows of x that one task keeps in the second-level cache
constexpr int kVecs = kPanel / kWidth;
constexpr long kTasksPerThread = 32;
constexpr long kLookAhead = 4096;  // bytes
#if defined(__AMX_BF16__)
constexpr long kBlockRows = 2 * kAmxRows;
#else
constexpr long kBlockRows = kTileRows;
#endif

long num_panels(long columns) { return (columns + kPanel - 1) / kPanel; }

template <class T, class W>
void pack(const W* weight, W* packed, long columns, long depth) {
  constexpr long kP = kPack<T>;
  for (long n = 0; n < num_panels(columns) * kPanel; ++n) {
    W* column = packed + n / kPanel * kPanel * depth + n % kPanel * kP;
    for (long k = 0; k < depth; ++k) column[k / kP * kPanel * kP + k % kP] = n < columns ? weight[n * depth + k] : W{};
  }
}

// A panel, or whole steps of one, in the rows' type.
void widen_panel(const int8_t* panel, long size, float* wide) {
  for (long i = 0; i < size; i += kWidth) store(wide + i, load(panel + i));
}

void widen_panel(const int8_t* panel, long size, bf16* wide) {
  for (long i = 0; i < size; i += 2 * kWidth) {
    const BitVec pairs = load_pairs(panel + i);
    std::memcpy(wide + i, &pairs, sizeof pairs);
  }
  asm volatile("" : : : "memory");  // the compiler does not know what tiles are loaded from
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
    const long rows_here = row_end - row_begin;
#if defined(__AMX_BF16__)
    std::optional<AmxTiles> tiles;
    if (is_on_amx()) tiles.emplace(linear_shapes(rows_here));
#endif
    for (long panel = panel_begin; panel < panel_end; ++panel) {
      const W* packed = panel_at(panel);
      const W* next = panel_at(panel + 1 < panel_end ? panel + 1 : panel_after);
      if constexpr (sizeof(W) == 1) {
        if (rows_here > kBlockRows) {  // widened once for all blocks of rows
          thread_local Lines<T> wide;
          wide.resize(kPanel * matrix.depth);
          widen_panel(packed, kPanel * matrix.depth, wide.data());
          multiply(row_begin, row_end, panel, wide.data(), next);
          continue;
        }
      }
      multiply(row_begin, row_end, panel, packed, next);
    }
  }

  Finish<Out> finish_of(long panel) const {
    const long first = panel * kPanel;
    return {matrix.scale ? matrix.scale + first : nullptr, matrix.bias ? matrix.bias + first : nullptr, matrix.is_gated,
            std::min(width(), matrix.outputs - panel * width())};
  }

  long width() const { return matrix.is_gated ? kPanel / 2 : kPanel; }  // results of a panel

  // Where a row's results of a panel go. Nobody has their lines yet; fetched now, they are there when the sums are.
  Out* place(long row, long rows, long panel) const {
    Out* to = y + row * matrix.outputs + panel * width();
    for (long r = 0; r < rows; ++r) __builtin_prefetch(to + r * matrix.outputs, 1);
    return to;
  }

  // Rows in blocks of nearly equal height, at most a tile's.
  template <class B>
  void multiply(long row_begin, long row_end, long panel, const B* b, const W* next) const {
#if defined(__AMX_BF16__)
    if constexpr (sizeof(T) == 2) {
      if (is_on_amx()) return multiply_on_amx(row_begin, row_end, panel, b, next);
    }
#endif
    alignas(64) float sums[kTileRows * kPanel];
    const long depth = matrix.depth;
    const Finish<Out> finish = finish_of(panel);
    const B* vectors[kVecs];
    for (int v = 0; v < kVecs; ++v) vectors[v] = b + v * kWidth * kPack<T>;
    const Columns<B> columns{vectors, kVecs, 1, depth / kPack<T>, kPanel * kPack<T>};
    long height = row_end - row_begin;
    long blocks = (height + kTileRows - 1) / kTileRows;
    for (long block = 0; block < blocks; ++block) {
      long begin = row_begin + height * block / blocks, end = row_begin + height * (block + 1) / blocks;
      Out* to = place(begin, end - begin, panel);
      any_tile<T, kVecs, kTileRows>(static_cast<int>(end - begin), x + begin * depth, depth, columns, sums, kPanel,
                                    ahead(panel, next, block, blocks));
      finish(sums, end - begin, to, matrix.outputs);
    }
  }

#if defined(__AMX_BF16__)
  // By the depth alone, so that a row is computed in one way whatever the number of rows.
  bool is_on_amx() const { return sizeof(T) == 2 && matrix.depth % kAmxDepth == 0; }

  // Two tiles of rows at a time. What is left at the end is computed in whole tiles again, which reach back to rows
  // that are there already: they come out the same.
  template <class B>
  void multiply_on_amx(long row_begin, long row_end, long panel, const B* b, const W* next) const {
    constexpr long kStep = kPanel * kAmxDepth;
    alignas(64) float sums[2 * kAmxRows * kPanel];
    alignas(64) bf16 wide[2][kStep];
    auto columns = [&](long step) {
      if constexpr (sizeof(B) == 2) {
        return b + step * kStep;
      } else {
        widen_panel(b + step * kStep, kStep, wide[step % 2]);
        return static_cast<const bf16*>(wide[step % 2]);
      }
    };
    const Finish<Out> finish = finish_of(panel);
    const long tile = std::min(kAmxRows, row_end - row_begin);
    const long depth = matrix.depth, blocks = (row_end - row_begin + 2 * kAmxRows - 1) / (2 * kAmxRows);
    for (long block = 0; block < blocks; ++block) {
      const long begin = row_begin + block * 2 * kAmxRows;
      const bool is_pair = row_end - begin > tile;
      const long first = is_pair ? begin : row_end - tile, second = std::min(begin + kAmxRows, row_end - tile);
      Out *to_first = place(first, tile, panel), *to_second = is_pair ? place(second, tile, panel) : nullptr;
      auto run = is_pair ? amx_tile<2, decltype(columns), Ahead> : amx_tile<1, decltype(columns), Ahead>;
      run(x + first * depth, x + second * depth, depth, depth / kAmxDepth, columns, sums, tile,
          ahead(panel, next, block, blocks));
      finish(sums, tile, to_first, matrix.outputs);
      if (is_pair) finish(sums + tile * kPanel, tile, to_second, matrix.outputs);
    }
  }
#endif

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
