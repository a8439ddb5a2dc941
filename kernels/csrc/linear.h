// Inputs of a product by packed weights, and its epilogue.
#pragma once

#include <algorithm>

#include "common/api.h"
#include "common/tile.h"

namespace quire {

inline constexpr long kLookAhead = 4096;  // bytes

// Epilogue of a panel's sums: scale, bias, gate, and the result's type.
template <class Out>
struct Finish {
  const float *scale, *bias;  // of the panel's first column, or null
  int is_gated;
  long count;  // results in a row

  void operator()(const float* sums, long rows, Out* y, long ldy) const {
    for (long r = 0; r < rows; ++r) row(sums + r * kPanel, y + r * ldy);
  }

  void row(const float* sums, Out* y) const {
    const bool is_plain = !scale && !bias && count == (is_gated ? kPanel / 2 : kPanel);
    if (!is_plain) {
      any_row(sums, y);
    } else if (is_gated) {
      plain_row<true>(sums, y);
    } else {
      plain_row<false>(sums, y);
    }
  }

 private:
  // Most rows are nothing but whole vectors, and a product is waiting for them.
  template <bool kGated>
  void plain_row(const float* sums, Out* y) const {
    if constexpr (kGated) {
      for (long c = 0; c < kPanel / 2; c += kWidth) {
        store(y + c, silu(load(sums + c)) * load(sums + c + kPanel / 2));
      }
    } else {
      for (long c = 0; c < kPanel; c += 2 * kWidth) store(y + c, load(sums + c), load(sums + c + kWidth));
    }
  }

  void any_row(const float* sums, Out* y) const {
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

  Vec value(const float* sums, long c) const {
    Vec x = load(sums + c);
    if (scale) x *= load(scale + c);
    return bias ? x + load(bias + c) : x;
  }
};

template <class T, class W, class Out>
struct Operands {
  const T* x;
  long x_stride;  // between rows
  const Matrix& matrix;
  Out* y;
  long y_stride;
  long rows;
  long first_row = 0, first_panel = 0;  // whose results y begins with

  const W* panel_at(long panel) const { return static_cast<const W*>(matrix.packed) + panel * kPanel * matrix.depth; }
  long width() const { return matrix.is_gated ? kPanel / 2 : kPanel; }  // results of a panel
  const T* row_at(long row) const { return x + row * x_stride; }
  Out* result_at(long row, long panel) const {
    return y + (row - first_row) * y_stride + (panel - first_panel) * width();
  }

  Finish<Out> finish_of(long panel) const {
    const long first = panel * kPanel;
    return {matrix.scale ? matrix.scale + first : nullptr, matrix.bias ? matrix.bias + first : nullptr, matrix.is_gated,
            std::min(width(), matrix.outputs - panel * width())};
  }
};

// A panel, or whole steps of one, in the rows' type.
inline void widen_panel(const int8_t* panel, long size, float* wide) {
  for (long i = 0; i < size; i += kWidth) store(wide + i, load(panel + i));
}

inline void widen_panel(const int8_t* panel, long size, bf16* wide) {
  for (long i = 0; i < size; i += 2 * kWidth) {
    const BitVec pairs = load_pairs(panel + i);
    std::memcpy(wide + i, &pairs, sizeof pairs);
  }
  asm volatile("" : : : "memory");  // the compiler does not know what tiles are loaded from
}

}  // namespace quire
