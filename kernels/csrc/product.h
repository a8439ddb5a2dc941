// A product by packed weights in parts, and how threads share them.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/lines.h"
#include "common/team.h"
#include "common/tile.h"
#include "linear.h"
#include "linear_amx.h"
#include "linear_int4.h"

namespace quire {

// Rows of x that one task keeps in the second-level cache.
#if defined(__AMX_BF16__)
inline constexpr long kRowBytes = 1024 * 1024;
#else
inline constexpr long kRowBytes = 256 * 1024;
#endif
inline constexpr long kTasksPerThread = 8;
// So few results of a task are copied, so that another thread may compute it again.
inline constexpr long kBytesApart = 8 * 1024;

inline long num_panels(long columns) { return (columns + kPanel - 1) / kPanel; }

template <class T>
long most_rows(long depth) {
  return std::max<long>(kTileRows, kRowBytes / (depth * static_cast<long>(sizeof(T))));
}

template <class T, class W, class Out>
struct Product : Operands<T, W, Out> {
  static constexpr int kVecs = kPanel / kWidth;
  using Operands<T, W, Out>::matrix, Operands<T, W, Out>::rows;

  struct Part {
    long row_begin, row_end, panel_begin, panel_end;
    const W* after;  // what this thread will probably multiply by next
  };

  void compute(const Part& part) const {
    const auto [row_begin, row_end, panel_begin, panel_end, after] = part;
    auto each_panel = [&](long block_rows, const auto& multiply_by) {
      for (long panel = panel_begin; panel < panel_end; ++panel) {
        const W* packed = this->panel_at(panel);
        const W* next = panel + 1 < panel_end ? this->panel_at(panel + 1) : after;
        if constexpr (sizeof(W) == 1) {
          if (kIsInt4<W> || row_end - row_begin > block_rows) {  // widened once for all blocks of rows
            thread_local Lines<T> wide;
            wide.resize(kPanel * matrix.depth);
            this->widen(panel, wide.data());
            multiply_by(panel, wide.data(), next);
            continue;
          }
        }
        if constexpr (!kIsInt4<W>) multiply_by(panel, packed, next);
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
#if defined(__AVX512BF16__)
    if constexpr (kIsInt4<W> && sizeof(T) == 2) return multiply_codes(part);
#endif
    each_panel(kTileRows,
               [&](long panel, const auto* b, const W* next) { multiply(row_begin, row_end, panel, b, next); });
  }

#if defined(__AVX512BF16__)
  void multiply_codes(const Part& part) const {
    alignas(64) float sums[kInt4Rows * kPanel], added[kInt4Rows * kPanel];
    const long height = part.row_end - part.row_begin, groups = matrix.depth / matrix.group;
    const long blocks = (height + kInt4Rows - 1) / kInt4Rows;
    thread_local Lines<float> x_sums;
    thread_local Lines<bf16> wide;
    x_sums.resize(height * groups);
    if (blocks > 1) wide.resize(kPanel * matrix.depth);
    sum_groups(this->row_at(part.row_begin), this->x_stride, height, groups, matrix.group, x_sums.data());
    for (long panel = part.panel_begin; panel < part.panel_end; ++panel) {
      const Finish<Out> finish = this->finish_of(panel);
      const long at = panel * groups * kPanel;
      const Int4Panel codes{this->panel_at(panel), matrix.scale + at, matrix.zero + at, groups, matrix.group / 2};
      if (blocks > 1) widen_int4(codes, wide.data());
      for (long block = 0; block < blocks; ++block) {
        const long begin = height * block / blocks, count = height * (block + 1) / blocks - begin;
        const long row = part.row_begin + begin;
        Out* to = place(row, count, panel);
        auto multiply_by = [&](const auto& columns) {
          any_int4_tile(static_cast<int>(count), this->row_at(row), this->x_stride, codes, columns,
                        x_sums.data() + begin * groups, sums);
        };
        blocks > 1 ? multiply_by(WideCodes{wide.data()}) : multiply_by(Int4Codes(codes.codes));
        finish(sums, this->add_to(added, panel, row, count), count, to, this->y_stride);
      }
    }
  }
#endif

  // Rows in blocks of nearly equal height, at most a tile's.
  template <class B>
  void multiply(long row_begin, long row_end, long panel, const B* b, const W* next) const {
    alignas(64) float sums[kTileRows * kPanel], added[kTileRows * kPanel];
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
      finish(sums, this->add_to(added, panel, begin, end - begin), end - begin, to, this->y_stride);
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
    constexpr long kStepBytes = kPanel * kPack<T> * static_cast<long>(sizeof(W)) / (kIsInt4<W> ? 2 : 1);
    if (blocks == 1 && !kIsInt4<W>)
      return {reinterpret_cast<const char*>(this->panel_at(panel)) + kLookAhead, kStepBytes};
    const long share = kStepBytes / blocks;
    return {reinterpret_cast<const char*>(next) + block * share * (matrix.depth / kPack<T>), share};
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

// `of(task)` is a product and a part of it; `most_results` of one of them at most.
template <class Out, class Of>
void share_products(Team& team, long tasks, long most_results, const Of& of) {
  if (most_results * static_cast<long>(sizeof(Out)) > kBytesApart) {
    team.run(tasks, [&](long task) {
      const auto [product, part] = of(task);
      product.compute(part);
    });
    return;
  }
  team.run(
      tasks,
      [&](long task) {
        const auto [product, part] = of(task);
        product.compute_apart(part);
      },
      [&](long task) {
        const auto [product, part] = of(task);
        product.publish(part);
      });
}

}  // namespace quire
