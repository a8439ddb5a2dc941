// Vectors of float32 as wide as the target's registers, by the compiler's vector extensions. Arithmetic is written with
// operators, and the compiler fuses a * b + c. bf16 is storage only; arithmetic is float32.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace quire {

#if defined(__AVX512F__)
inline constexpr int kWidth = 16;
#else
inline constexpr int kWidth = 8;
#endif

typedef float Vec __attribute__((vector_size(4 * kWidth)));
typedef int32_t IntVec __attribute__((vector_size(4 * kWidth)));
typedef uint32_t BitVec __attribute__((vector_size(4 * kWidth)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * kWidth)));

struct bf16 {
  uint16_t bits;
};

inline Vec broadcast(float x) { return Vec{} + x; }

inline float widen(float x) { return x; }

inline float widen(bf16 x) {
  uint32_t bits = uint32_t{x.bits} << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

// To the nearest, ties to even; a NaN stays one.
inline BitVec round_to_bf16(Vec x) {
  BitVec bits = (BitVec)x;
  BitVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return x == x ? rounded : (bits >> 16) | 0x40;
}

template <class T>
T narrow(float x);

template <>
inline float narrow<float>(float x) {
  return x;
}

template <>
inline bf16 narrow<bf16>(float x) {
  return bf16{static_cast<uint16_t>(round_to_bf16(broadcast(x))[0])};
}

inline Vec load(const float* p) {
  Vec x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// By name, as below: GCC's own conversion goes by halves and puts them together, one of bytes goes one by one.
inline Vec load(const bf16* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16);
#elif defined(__AVX2__)
  return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16);
#else
  HalfVec half;
  std::memcpy(&half, p, sizeof half);
  return (Vec)(__builtin_convertvector(half, BitVec) << 16);
#endif
}

inline Vec load(const int8_t* p) {
#if defined(__AVX512F__)
  return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  Vec x;
  for (int i = 0; i < kWidth; ++i) x[i] = p[i];
  return x;
#endif
}

inline BitVec load_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return (BitVec)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
  return (BitVec)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  BitVec x;
  for (int i = 0; i < kWidth; ++i) x[i] = p[i];
  return x;
#endif
}

inline void store(float* p, Vec x) { std::memcpy(p, &x, sizeof x); }

inline void store(bf16* p, Vec x) {
#if defined(__AVX512BF16__)
  __m256bh half = _mm512_cvtneps_pbh((__m512)x);
#else
  HalfVec half = __builtin_convertvector(round_to_bf16(x), HalfVec);
#endif
  std::memcpy(p, &half, sizeof half);
}

// Two vectors, one behind the other: of bf16, in one piece.
inline void store(float* p, Vec x, Vec behind) { store(p, x), store(p + kWidth, behind); }

inline void store(bf16* p, Vec x, Vec behind) {
#if defined(__AVX512BF16__)
  const __m512bh both = _mm512_cvtne2ps_pbh((__m512)behind, (__m512)x);
  std::memcpy(p, &both, sizeof both);
#else
  store(p, x), store(p + kWidth, behind);
#endif
}

// 2 * kWidth values as bf16, two to an element, the first in the lower half.
inline BitVec load_pairs(const bf16* p) {
  BitVec pairs;
  std::memcpy(&pairs, p, sizeof pairs);
  return pairs;
}

inline BitVec load_pairs(const int8_t* p) {
#if defined(__AVX512BF16__)
  return (BitVec)_mm512_cvtne2ps_pbh((__m512)load(p + kWidth), (__m512)load(p));
#else
  bf16 wide[2 * kWidth];
  store(wide, load(p));
  store(wide + kWidth, load(p + kWidth));
  return load_pairs(wide);
#endif
}

// Two vectors as bf16, two to an element, those of `lower` in the lower halves.
inline BitVec as_pairs(Vec lower, Vec upper) {
#if defined(__AVX512BF16__)
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (BitVec)_mm512_permutexvar_epi16(_mm512_load_si512(kOrder),
                                          (__m512i)_mm512_cvtne2ps_pbh((__m512)upper, (__m512)lower));
#else
  return round_to_bf16(lower) | (round_to_bf16(upper) << 16);
#endif
}

inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

inline IntVec lanes() {
  IntVec index;
  for (int i = 0; i < kWidth; ++i) index[i] = i;
  return index;
}

// Halves are added, then quarters, and so on: the same order for every width of the input.
inline float sum(Vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  float part[kWidth];
  store(part, x);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  return part[0];
#endif
}

inline float largest(Vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  float part[kWidth];
  store(part, x);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] = part[i] > part[i + half] ? part[i] : part[i + half];
  return part[0];
#endif
}

// Of the polynomials of this degree that are 1 at 0, the one that is closest to 2^f for |f| <= 1/2.
template <int kDegree>
inline Vec exp2_near_0(Vec f) {
  static_assert(kDegree == 3 || kDegree == 5);
  if constexpr (kDegree == 3) {
    return ((5.500896453e-2f * f + 2.422110433e-1f) * f + 6.932829327e-1f) * f + 1.0f;
  } else {
    const Vec upper = (1.326472720e-3f * f + 9.671512640e-3f) * f + 5.550733743e-2f;
    return ((upper * f + 2.402224209e-1f) * f + 6.931469776e-1f) * f + 1.0f;
  }
}

// 2^x for x <= 127; below -126 it is 0. Of degree 5, it is within 2.1 units in the last place, of degree 3 within
// 2^-13, for what is rounded to bf16. Exact where x is an integer.
template <int kDegree = 5>
inline Vec exp2(Vec x) {
#if defined(__AVX512DQ__)
  const Vec f = (Vec)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec scaled = (Vec)_mm512_scalef_ps((__m512)exp2_near_0<kDegree>(f), (__m512)(x - f));
#else
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = x + magic;
  const Vec series = exp2_near_0<kDegree>(x - (shifted - magic));
  const Vec scaled = (Vec)((IntVec)series + (((IntVec)shifted - (IntVec)magic) << 23));
#endif
  return x < -126.0f ? broadcast(0.0f) : scaled;
}

inline constexpr float kLog2E = 1.44269504f;

inline Vec exp(Vec x) { return exp2(x * kLog2E); }

// x / (1 + exp(-z)). Beyond 87 the exponential leaves float32; its reciprocal is nothing either way.
inline Vec times_sigmoid(Vec x, Vec z) {
  Vec negative = -z;
  return x / (1.0f + exp(negative > 87.0f ? broadcast(87.0f) : negative));
}

inline Vec silu(Vec x) { return times_sigmoid(x, x); }

// Of the quotients of polynomials of this degree in x^2, times x, the one that is closest to tanh for |x| <= 9, where
// float32 ends: within 4e-7 of it, relatively.
inline Vec tanh(Vec x) {
  const Vec most = broadcast(9.0f), y = x > most ? most : x < -most ? -most : x, u = y * y;
  const Vec above = ((1.335388955e-8f * u + 2.060851693e-5f) * u + 3.495553974e-3f) * u + 1.338099688e-1f;
  const Vec below = ((7.776239386e-7f * u + 3.285578568e-4f) * u + 2.587685175e-2f) * u + 4.671431184e-1f;
  return y * (above * u + 1.0f) / (below * u + 1.0f);
}

}  // namespace quire
