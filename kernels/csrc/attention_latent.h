// Panels of keys turned into panels of values, for a cache that has keys only.
//
//   keys     [dim / kPack][16][kPack]
//   values   [16 / kPack][dim][kPack], of the first `dim` numbers
#pragma once

#include "attention.h"

namespace quire {

inline void turn(const float* keys, long dim, float* values) {
  for (long first = 0; first < dim; first += kKeys) {
    for (long key = 0; key < kKeys; ++key) {
      for (long d = first; d < first + kKeys; ++d) values[key * dim + d] = keys[d * kKeys + key];
    }
  }
}

#if defined(__AVX512F__)

// Of two rows of a square of eight by eight: what is on the wrong side of the diagonal of each square of twice `kSize`.
template <int kSize>
void exchange(__m512i& upper, __m512i& lower) {
  constexpr auto left = [](int i) { return i & kSize ? 8 + i - kSize : i; };
  constexpr auto right = [](int i) { return i & kSize ? 8 + i : i + kSize; };
  auto order = [](auto lane) {
    return _mm512_setr_epi64(lane(0), lane(1), lane(2), lane(3), lane(4), lane(5), lane(6), lane(7));
  };
  const __m512i before = upper;
  upper = _mm512_permutex2var_epi64(before, order(left), lower);
  lower = _mm512_permutex2var_epi64(before, order(right), lower);
}

template <int kSize>
void exchange_all(__m512i (&rows)[8]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    if ((i & kSize) == 0) exchange<kSize>(rows[i], rows[i + kSize]);
}

// Two keys of two dimensions are 64 bits: first turned themselves, then eight of them against eight pairs of keys.
inline void turn(const bf16* keys, long dim, bf16* values) {
  const __m512i ends = _mm512_set1_epi64(static_cast<long long>(0xffff00000000ffff));
  const __m512i second = _mm512_set1_epi64(0xffff0000), third = _mm512_set1_epi64(0xffff00000000);
  for (long d = 0; d < dim; d += kKeys) {
    __m512i rows[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const __m512i row = _mm512_loadu_si512(keys + (d + 2 * i) * kKeys);
      rows[i] = (row & ends) | (_mm512_srli_epi64(row, 16) & second) | (_mm512_slli_epi64(row, 16) & third);
    }
    exchange_all<1>(rows);
    exchange_all<2>(rows);
    exchange_all<4>(rows);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) _mm512_storeu_si512(values + (i * dim + d) * 2, rows[i]);
  }
}

#else

inline void turn(const bf16* keys, long dim, bf16* values) {
  for (long d = 0; d < dim; d += 2) {
    for (long key = 0; key < kKeys; key += 2) {
      const bf16 *from = keys + d * kKeys + key * 2, turned[] = {from[0], from[2], from[1], from[3]};
      std::memcpy(values + (key * dim / 2 + d) * 2, turned, sizeof turned);
    }
  }
}

#endif

// Keys from `count` on are of nobody, or stale: they meet weights of 0, and become zeros as a NaN would survive that.
template <class T>
void turn_panel(const T* keys, long dim, long count, T* values) {
  turn(keys, dim, values);
  for (long key = count; key < kKeys; ++key) {
    T* value = values + key / kPack<T> * kPack<T> * dim + key % kPack<T>;
    for (long d = 0; d < dim; ++d) value[d * kPack<T>] = T{};
  }
}

}  // namespace quire
