// A few rows of bf16 times a panel of int4, of which no number is ever widened to its value: a group of k is summed up
// with the codes, then scaled.
//
//   y = sum over groups of scale * (sum of x * (code - 8) - (zero - 8) * sum of x)
//
// A sum is added up in the order of k, for any number of rows. So a row's result does not depend on its batch.
#pragma once

#if defined(__AVX512BF16__)

#include <array>
#include <utility>

#include "linear.h"

namespace quire {

// Rows of a tile: sums of a group and of all groups fill the registers.
inline constexpr int kInt4Rows = 6;
inline constexpr float kInt4Half = 8;

// The sums of x in groups, [rows, groups].
inline void sum_groups(const bf16* x, long x_stride, long rows, long groups, long group, float* sums) {
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(narrow<bf16>(1.0f).bits);
  for (long row = 0; row < rows; ++row)
    for (long g = 0; g < groups; ++g) {
      const bf16* begin = x + row * x_stride + g * group;
      Vec parts = {};
      long k = 0;
      for (; k + 2 * kWidth <= group; k += 2 * kWidth) {
        parts = (Vec)_mm512_dpbf16_ps((__m512)parts, (__m512bh)load_pairs(begin + k), ones);
      }
      float total = sum(parts);
      for (; k < group; ++k) total += widen(begin[k]);
      sums[row * groups + g] = total;
    }
}

struct Int4Panel {
  const Int4* codes;
  const float* scale;
  const uint8_t* zero;
  long groups, pairs;  // of k, in a group
};

// Of a panel, what `columns_at` gives for the codes of two k.
struct Int4Codes {
  const Int4* codes;
  __m512i values, halves;

  explicit Int4Codes(const Int4* codes) : codes(codes), values(int4_values()), halves(_mm512_set1_epi32(0x000f000f)) {}

  // A byte's lower half goes to the lower word, its upper half to the upper word.
  __m512bh columns_at(int v) const {
    const __m512i byte = (__m512i)load_bytes(&codes[v * kWidth].pair);
    const __m512i both = _mm512_and_si512(_mm512_or_si512(byte, _mm512_slli_epi32(byte, 12)), halves);
    return (__m512bh)_mm512_permutexvar_epi16(both, values);
  }

  void advance() { fetch(codes + kLookAhead), codes += kPanel; }

 private:
  // -8 to 7 as bf16, twice.
  static __m512i int4_values() {
    alignas(64) uint16_t values[32];
    for (int i = 0; i < 32; ++i) values[i] = narrow<bf16>(static_cast<float>(i % 16) - kInt4Half).bits;
    return _mm512_load_si512(values);
  }
};

// The same, of codes that are bf16 already: for several tiles.
struct WideCodes {
  const bf16* codes;

  __m512bh columns_at(int v) const { return (__m512bh)load_pairs(codes + 2 * v * kWidth); }
  void advance() { codes += 2 * kPanel; }
};

inline void widen_int4(const Int4Panel& panel, bf16* wide) {
  Int4Codes codes(panel.codes);
  for (long i = 0; i < panel.groups * panel.pairs; ++i, codes.advance(), wide += 2 * kPanel)
    for (int v = 0; v < kPanel / kWidth; ++v) {
      const __m512bh columns = codes.columns_at(v);
      std::memcpy(wide + 2 * v * kWidth, &columns, sizeof columns);
    }
}

template <int kRows, class Codes>
void int4_tile(const bf16* x, long x_stride, const Int4Panel& panel, Codes codes, const float* x_sums, float* sums) {
  constexpr int kVecs = kPanel / kWidth;
  Rows<bf16, kRows> rows(x, x_stride);
  Vec total[kRows][kVecs] = {};
  for (long g = 0; g < panel.groups; ++g) {
    Vec part[kRows][kVecs] = {};
    for (long i = 0; i < panel.pairs; ++i, codes.advance()) {
      __m512bh columns[kVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) columns[v] = codes.columns_at(v);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        uint32_t pair;
        std::memcpy(&pair, rows.at(r), sizeof pair);
        const __m512bh row = (__m512bh)(BitVec{} + pair);
#pragma GCC unroll 2
        for (int v = 0; v < kVecs; ++v) part[r][v] = (Vec)_mm512_dpbf16_ps((__m512)part[r][v], row, columns[v]);
      }
      rows.advance();
    }
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; ++v) {
      const long at = g * kPanel + v * kWidth;
      const Vec scale = load(panel.scale + at);
      const Vec zero = __builtin_convertvector((IntVec)load_bytes(panel.zero + at), Vec) - kInt4Half;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) total[r][v] += scale * (part[r][v] - zero * x_sums[r * panel.groups + g]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) store(sums + r * kPanel + v * kWidth, total[r][v]);
}

// `int4_tile` for any number of rows from 1 to kInt4Rows.
template <class Codes>
void any_int4_tile(int num_rows, const bf16* x, long x_stride, const Int4Panel& panel, const Codes& codes,
                   const float* x_sums, float* sums) {
  using Tile = void (*)(const bf16*, long, const Int4Panel&, Codes, const float*, float*);
  static constexpr auto tiles = []<int... r>(std::integer_sequence<int, r...>) {
    return std::array<Tile, sizeof...(r)>{&int4_tile<r + 1, Codes>...};
  }(std::make_integer_sequence<int, kInt4Rows>{});
  tiles[num_rows - 1](x, x_stride, panel, codes, x_sums, sums);
}

}  // namespace quire

#endif
