// Inputs of a product by packed weights, and its epilogue.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "adapters.h"
#include "common/api.h"
#include "common/tile.h"

namespace quire {

inline constexpr long kLookAhead = 4096;  // bytes

inline Vec gated(const Activation& by, Vec gate, Vec up) {
  if (by.gate == Gate::kSilu) return silu(gate) * up;
  if (by.gate == Gate::kGeluTanh) {
    // 0.5 (1 + tanh(z)) is the sigmoid of 2 z, here with 2 sqrt(2 / pi) in both constants.
    return times_sigmoid(gate, gate * (1.5957691216f + 0.0713548163f * gate * gate)) * up;
  }
  const Vec limit = broadcast(by.limit);
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : up < -limit ? -limit : up;
  return times_sigmoid(gate, by.alpha * gate) * (up + 1.0f);
}

// Epilogue of a panel's sums: scale, bias, what is `added` or null, gate, and the result's type.
template <class Out>
struct Finish {
  const float *scale, *bias;  // of the panel's first column, or null
  const Activation* gate;     // or null
  long count;                 // results in a row

  void operator()(const float* sums, const float* added, long rows, Out* y, long ldy) const {
    for (long r = 0; r < rows; ++r) row(sums + r * kPanel, added ? added + r * kPanel : nullptr, y + r * ldy);
  }

  void row(const float* sums, const float* added, Out* y) const {
    const bool is_plain =
        !scale && !bias && !added && (gate ? gate->gate == Gate::kSilu && count == kPanel / 2 : count == kPanel);
    if (!is_plain) {
      any_row(sums, added, y);
    } else if (gate) {
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

  // A function of its own: what most rows do not need must not take registers from the products.
  [[gnu::noinline]] void any_row(const float* sums, const float* added, Out* y) const {
    for (long c = 0; c < count; c += kWidth) {
      Vec x = value(sums, added, c);
      if (gate) x = gated(*gate, x, value(sums, added, c + kPanel / 2));
      if (c + kWidth <= count) {
        store(y + c, x);
      } else {
        for (long i = c; i < count; ++i) y[i] = narrow<Out>(x[i - c]);
      }
    }
  }

  Vec value(const float* sums, const float* added, long c) const {
    Vec x = load(sums + c);
    if (scale) x *= load(scale + c);
    if (bias) x += load(bias + c);
    return added ? x + load(added + c) : x;
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

// Two codes from 0 to 15: of one k the lower half, of the next the upper one.
struct Int4 {
  uint8_t pair;
};

// [k / 2][32] codes of a group, times its scales, in the rows' type.
template <class T>
void widen_codes(const Int4* codes, long pairs, const float* scale, const uint8_t* zero, T* wide) {
  constexpr int kVecs = kPanel / kWidth;
  Vec scales[kVecs], zeros[kVecs];
  for (int v = 0; v < kVecs; ++v) {
    scales[v] = load(scale + v * kWidth);
    zeros[v] = __builtin_convertvector((IntVec)load_bytes(zero + v * kWidth), Vec);
  }
  for (long i = 0; i < pairs; ++i, codes += kPanel, wide += 2 * kPanel)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      const BitVec both = load_bytes(&codes[v * kWidth].pair);
      const Vec lower = (__builtin_convertvector((IntVec)(both & 15), Vec) - zeros[v]) * scales[v];
      const Vec upper = (__builtin_convertvector((IntVec)(both >> 4), Vec) - zeros[v]) * scales[v];
      if constexpr (sizeof(T) == 2) {
        const BitVec pairs_of_both = as_pairs(lower, upper);
        std::memcpy(wide + 2 * v * kWidth, &pairs_of_both, sizeof pairs_of_both);
      } else {
        store(wide + v * kWidth, lower);
        store(wide + kPanel + v * kWidth, upper);
      }
    }
}

template <class W>
inline constexpr bool kIsInt4 = std::is_same_v<W, Int4>;

template <class T, class W, class Out>
struct Operands {
  const T* x;
  long x_stride;  // between rows
  const Matrix& matrix;
  Out* y;
  long y_stride;
  long rows;
  const AdapterRows* adapted = nullptr;  // null: nothing is added to any row
  long first_row = 0, first_panel = 0;   // whose results y begins with

  const W* panel_at(long panel) const {
    return static_cast<const W*>(matrix.packed) + panel * kPanel * matrix.depth / (kIsInt4<W> ? 2 : 1);
  }
  long width() const { return matrix.is_gated() ? kPanel / 2 : kPanel; }  // results of a panel
  const T* row_at(long row) const { return x + row * x_stride; }
  Out* result_at(long row, long panel) const {
    return y + (row - first_row) * y_stride + (panel - first_panel) * width();
  }

  // A panel in the rows' type.
  void widen(long panel, T* wide) const {
    const W* packed = panel_at(panel);
    if constexpr (kIsInt4<W>) {
      const long groups = matrix.depth / matrix.group, pairs = matrix.group / 2;
      for (long g = 0; g < groups; ++g) {
        const long at = (panel * groups + g) * kPanel;
        widen_codes(packed + g * pairs * kPanel, pairs, matrix.scale + at, matrix.zero + at,
                    wide + g * matrix.group * kPanel);
      }
      asm volatile("" : : : "memory");  // the compiler does not know what tiles are loaded from
    } else {
      widen_panel(packed, kPanel * matrix.depth, wide);
    }
  }

  // `added`, room for [rows, kPanel], with what adapters add, or null.
  const float* add_to(float* added, long panel, long row, long count) const {
    if (!adapted) return nullptr;
    project_up<T>(matrix, *adapted, panel, row, count, added);
    return added;
  }

  Finish<Out> finish_of(long panel) const {
    const long first = panel * kPanel;
    const bool has_scale = matrix.scale && !matrix.group;
    return {has_scale ? matrix.scale + first : nullptr, matrix.bias ? matrix.bias + first : nullptr,
            matrix.is_gated() ? &matrix.activation : nullptr, std::min(width(), matrix.outputs - panel * width())};
  }
};

}  // namespace quire
