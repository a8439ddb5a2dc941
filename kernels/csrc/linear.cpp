// y = x W^T + b with W packed in panels of 32 columns, read front to back. At small batches memory is the bound. At
// large ones a tile of 12 rows keeps the multipliers busy while its panel stays in the second-level cache.
//
//   packed   [panel][k / kPack][32][kPack], zeros beyond the last column; kPack is that of the rows' type
//
// Where W is int8, y = (x W^T) * scale + b: the integers are widened to the rows' type, which is exact. Scale and bias
// reach to the end of the last panel. In a gated layer a panel is 16 columns of gates, then 16 of what they gate:
// y = silu(gate) * up, in float32.

#include "linear.h"

#include <algorithm>
#include <cstring>

#include "common/api.h"
#include "common/lines.h"
#include "common/pool.h"
#include "common/tile.h"
#include "linear_amx.h"

namespace quire {
namespace {

// Rows of x that one task keeps in the second-level cache.
#if defined(__AMX_BF16__)
constexpr long kRowBytes = 1024 * 1024;
#else
constexpr long kRowBytes = 256 * 1024;
#endif
constexpr int kVecs = kPanel / kWidth;
constexpr long kTasksPerThread = 8;
// So few results of a task are copied, so that another thread may compute it again.
constexpr long kBytesApart = 8 * 1024;

long num_panels(long columns) { return (columns + kPanel - 1) / kPanel; }

template <class T, class W>
void pack(const W* weight, W* packed, long columns, long depth) {
  constexpr long kP = kPack<T>;
  for (long n = 0; n < num_panels(columns) * kPanel; ++n) {
    W* column = packed + n / kPanel * kPanel * depth + n % kPanel * kP;
    for (long k = 0; k < depth; ++k) column[k / kP * kPanel * kP + k % kP] = n < columns ? weight[n * depth + k] : W{};
  }
}

template <class T, class W, class Out>
struct Product : Operands<T, W, Out> {
  using Operands<T, W, Out>::matrix, Operands<T, W, Out>::rows;

  struct Part {
    long row_begin, row_end, panel_begin, panel_end;
    long panel_after;  // what this thread will probably multiply by next
  };

  void compute(const Part& part) const {
    const auto [row_begin, row_end, panel_begin, panel_end, panel_after] = part;
    auto each_panel = [&](long block_rows, const auto& multiply_by) {
      for (long panel = panel_begin; panel < panel_end; ++panel) {
        const W* packed = this->panel_at(panel);
        const W* next = this->panel_at(panel + 1 < panel_end ? panel + 1 : panel_after);
        if constexpr (sizeof(W) == 1) {
          if (row_end - row_begin > block_rows) {  // widened once for all blocks of rows
            thread_local Lines<T> wide;
            wide.resize(kPanel * matrix.depth);
            widen_panel(packed, kPanel * matrix.depth, wide.data());
            multiply_by(panel, wide.data(), next);
            continue;
          }
        }
        multiply_by(panel, packed, next);
      }
    };
#if defined(__AMX_BF16__)
    if constexpr (sizeof(T) == 2) {
      if (is_for_amx(matrix.depth)) {
        AmxProduct<W, Out> product(*this, row_begin, row_end);
        each_panel(kAmxRows, [&](long panel, const auto* b, const W* next) { product.multiply(panel, b, next); });
        return;
      }
    }
#endif
    each_panel(kTileRows,
               [&](long panel, const auto* b, const W* next) { multiply(row_begin, row_end, panel, b, next); });
  }

  // Rows in blocks of nearly equal height, at most a tile's.
  template <class B>
  void multiply(long row_begin, long row_end, long panel, const B* b, const W* next) const {
    alignas(64) float sums[kTileRows * kPanel];
    const long depth = matrix.depth;
    const Finish<Out> finish = this->finish_of(panel);
    const B* vectors[kVecs];
    for (int v = 0; v < kVecs; ++v) vectors[v] = b + v * kWidth * kPack<T>;
    const Columns<B> columns{vectors, kVecs, 1, depth / kPack<T>, kPanel * kPack<T>};
    long height = row_end - row_begin;
    long blocks = (height + kTileRows - 1) / kTileRows;
    for (long block = 0; block < blocks; ++block) {
      long begin = row_begin + height * block / blocks, end = row_begin + height * (block + 1) / blocks;
      Out* to = place(begin, end - begin, panel);
      any_tile<T, kVecs, kTileRows>(static_cast<int>(end - begin), this->row_at(begin), this->x_stride, columns, sums,
                                    kPanel, ahead(panel, next, block, blocks));
      finish(sums, end - begin, to, this->y_stride);
    }
  }

  // Where a row's results of a panel go. Nobody has their lines yet; fetched now, they are there when the sums are.
  Out* place(long row, long rows, long panel) const {
    Out* to = this->result_at(row, panel);
    for (long r = 0; r < rows; ++r) __builtin_prefetch(to + r * this->y_stride, 1);
    return to;
  }

  // One block of rows waits for memory all the time, so it looks a little ahead. Several blocks wait for what the
  // first one meets: each fetches its share of the next panel instead.
  Ahead ahead(long panel, const W* next, long block, long blocks) const {
    constexpr long kStepBytes = kPanel * kPack<T> * static_cast<long>(sizeof(W));
    if (blocks == 1) return {reinterpret_cast<const char*>(this->panel_at(panel)) + kLookAhead, kStepBytes};
    const long share = kStepBytes / blocks;
    return {reinterpret_cast<const char*>(next) + block * share * (matrix.depth / kPack<T>), share};
  }

  void run(Team& team) const {
    if (rows == 0) return;
    long most = std::max<long>(kTileRows, kRowBytes / (matrix.depth * static_cast<long>(sizeof(T))));
    long row_parts = (rows + most - 1) / most;
    long panels = num_panels(matrix.columns);
    long panel_parts = std::clamp(kTasksPerThread * team.num_threads() / row_parts, 1L, panels);
    auto part = [&](long task) -> Part {
      long r = task / panel_parts, p = task % panel_parts;
      auto panel = [&](long i) { return panels * i / panel_parts; };
      return {rows * r / row_parts, rows * (r + 1) / row_parts, panel(p), panel(p + 1), panel((p + 1) % panel_parts)};
    };
    const long tasks = row_parts * panel_parts;
    auto most_of = [](long count, long parts) { return (count + parts - 1) / parts; };
    const long results = most_of(rows, row_parts) * most_of(panels, panel_parts) * this->width();
    if (results * static_cast<long>(sizeof(Out)) <= kBytesApart) {
      team.run(tasks, [&](long task) { compute_apart(part(task)); }, [&](long task) { publish(part(task)); });
    } else {
      team.run(tasks, [&](long task) { compute(part(task)); });
    }
  }

  // Into memory of this thread.
  void compute_apart(const Part& part) const {
    const long columns = (part.panel_end - part.panel_begin) * this->width();
    Lines<Out>& results = results_apart();
    results.resize((part.row_end - part.row_begin) * columns);
    Product apart = *this;
    apart.y = results.data(), apart.y_stride = columns;
    apart.first_row = part.row_begin, apart.first_panel = part.panel_begin;
    apart.compute(part);
  }

  void publish(const Part& part) const {
    const long columns = (part.panel_end - part.panel_begin) * this->width();
    const long count = std::clamp(matrix.outputs - part.panel_begin * this->width(), 0L, columns);
    constexpr long kPiece = 16;  // copied in one instruction or two
    const Out* from = results_apart().data();
    for (long row = part.row_begin; row < part.row_end; ++row, from += columns) {
      Out* to = this->result_at(row, part.panel_begin);
      long c = 0;
      for (; c + kPiece <= count; c += kPiece) std::memcpy(to + c, from + c, kPiece * sizeof(Out));
      for (; c < count; ++c) to[c] = from[c];
    }
  }

  static Lines<Out>& results_apart() {
    thread_local Lines<Out> results;
    return results;
  }
};

template <class T, class Out>
void multiply(Team& team, const void* x, long x_stride, const Matrix& matrix, void* y, long y_stride, long rows) {
  auto run = [&]<class W>(W) {
    Product<T, W, Out>{{static_cast<const T*>(x), x_stride, matrix, static_cast<Out*>(y), y_stride, rows}}.run(team);
  };
  matrix.scale ? run(int8_t{}) : run(T{});
}

}  // namespace

void linear(Team& team, int is_bf16, int out_is_bf16, const void* x, long x_stride, const Matrix& matrix, void* y,
            long y_stride, long rows) {
  auto* run = !is_bf16 ? &multiply<float, float> : out_is_bf16 ? &multiply<bf16, bf16> : &multiply<bf16, float>;
  run(team, x, x_stride, matrix, y, y_stride, rows);
}

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

void quire_linear(quire::Pool* pool, int is_bf16, int out_is_bf16, const void* x, long x_stride,
                  const quire::Matrix* matrix, void* y, long y_stride, long rows) {
  pool->together(
      [&](quire::Team& team) { quire::linear(team, is_bf16, out_is_bf16, x, x_stride, *matrix, y, y_stride, rows); });
}
}
