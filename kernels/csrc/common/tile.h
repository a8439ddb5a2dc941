// The inner loop of every matrix product: a few rows of A times a few vectors of columns of B, sums in registers.
//
//   A   rows of T, `lda` elements apart
//   B   for each vector of columns, steps that are `ldb` elements apart, in one or more segments of equal depth; a step
//       is a group of kPack<T> consecutive k of each column:
//       float32   b[k][column]              bf16   b[k / 2][column][k % 2]
//       int8 in the order of the rows' type, widened on the way, which is exact
//   C   float32 rows, `ldc` apart
//
// A sum is added up in the order of k, for any number of rows. So a row's result does not depend on its batch.
#pragma once

#include <array>
#include <utility>

#include "simd.h"

namespace quire {

template <class T>
inline constexpr int kPack = sizeof(T) == 2 ? 2 : 1;

// Rows of A that a tile takes; with two vectors of 16 or four of 8 columns the sums then fill the registers.
inline constexpr int kTileRows = kWidth == 16 ? 12 : 3;
inline constexpr int kPanel = 32;

template <class W>
struct Columns {
  const W* const* vectors;  // [segment][stride]: where the vectors of a tile begin, one after the other
  long stride, segments;
  long steps, ldb;  // of a segment
};

// Rows of A as the address of every third one. The processor adds one or two strides by itself, so all addresses of a
// tile fit into its registers.
template <class T, int kRows>
struct Rows {
  static constexpr int kNear = 3;
  const char* begin[(kRows + kNear - 1) / kNear];
  long stride;  // bytes

  Rows(const T* a, long lda) : stride(lda * static_cast<long>(sizeof(T))) {
    for (int i = 0; i * kNear < kRows; ++i) {
      begin[i] = reinterpret_cast<const char*>(a + i * kNear * lda);
      // Hides from the compiler that the addresses are related: it would compute each from the first one.
      asm("" : "+r"(begin[i]));
    }
  }

  const char* at(int r) const { return begin[r / kNear] + r % kNear * stride; }

  void advance() {
    for (const char*& row : begin) row += kPack<T> * sizeof(T);
  }
};

template <int kRows, int kVecs, class W>
inline void step(const Rows<float, kRows>& a, const W* const (&b)[kVecs], Vec (&acc)[kRows][kVecs]) {
  Vec column[kVecs];
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) column[v] = load(b[v]);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    float value;
    std::memcpy(&value, a.at(r), sizeof value);
    Vec row = broadcast(value);
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) acc[r][v] += row * column[v];
  }
}

template <int kRows, int kVecs, class W>
inline void step(const Rows<bf16, kRows>& a, const W* const (&b)[kVecs], Vec (&acc)[kRows][kVecs]) {
  BitVec column[kVecs];
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) column[v] = load_pairs(b[v]);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    uint32_t pair;
    std::memcpy(&pair, a.at(r), sizeof pair);
    BitVec row = BitVec{} + pair;
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
#if defined(__AVX512BF16__)
      acc[r][v] = (Vec)_mm512_dpbf16_ps((__m512)acc[r][v], (__m512bh)row, (__m512bh)column[v]);
#else
      acc[r][v] += (Vec)(row << 16) * (Vec)(column[v] << 16);
      acc[r][v] += (Vec)(row & 0xffff0000u) * (Vec)(column[v] & 0xffff0000u);
#endif
    }
  }
}

inline void fetch(const void* line) { __builtin_prefetch(line, 0, 2); }  // into the second-level cache

// What the caller will read next, fetched on the way: `per_step` bytes a step.
struct Ahead {
  const char* at;
  long per_step;

  void operator()() { fetch(at), at += per_step; }
};

// `ahead()` is called once a step.
template <class T, class W, int kRows, int kVecs, class Next>
void tile(const T* a, long lda, Columns<W> b, float* c, long ldc, Next ahead) {
  Vec acc[kRows][kVecs] = {};
  Rows<T, kRows> rows(a, lda);
  for (long s = 0; s < b.segments; ++s) {
    const W* vectors[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) vectors[v] = b.vectors[s * b.stride + v];
    for (long i = 0; i < b.steps; ++i) {
      ahead();
      step<kRows, kVecs>(rows, vectors, acc);
      rows.advance();
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) vectors[v] += b.ldb;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(c + r * ldc + v * kWidth, acc[r][v]);
}

// `tile` for any number of rows from 1 to kMostRows.
template <class T, int kVecs, int kMostRows, class W, class Next>
void any_tile(int num_rows, const T* a, long lda, Columns<W> b, float* c, long ldc, Next ahead) {
  using Tile = void (*)(const T*, long, Columns<W>, float*, long, Next);
  static constexpr auto tiles = []<int... r>(std::integer_sequence<int, r...>) {
    return std::array<Tile, sizeof...(r)>{&tile<T, W, r + 1, kVecs, Next>...};
  }(std::make_integer_sequence<int, kMostRows>{});
  tiles[num_rows - 1](a, lda, b, c, ldc, ahead);
}

}  // namespace quire
