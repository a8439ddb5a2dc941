// The softmax of a row's scores of one split: weights 2^(score - largest), which are not yet divided by their sum.
//
// Scores are taken in whole pairs of vectors: those beside the keys from low to high, in the same pairs, are hidden.
#pragma once

#include <limits>

#include "common/simd.h"

namespace quire {

inline constexpr long kPair = 2 * kWidth;
inline constexpr float kHidden = -std::numeric_limits<float>::infinity();

// The pairs that hold the keys from low to high: from, up to.
struct Pairs {
  long begin = 0, end = 0;

  Pairs(long low, long high) {
    if (low < high) begin = low / kPair * kPair, end = (high + kPair - 1) / kPair * kPair;
  }
};

// Whole vectors are written: one that is read soon after a part of it is written waits for that.
inline void hide_others(float* scores, long pair, long low, long high) {
  if (low <= pair && pair + kPair <= high) return;
  for (long k = pair; k < pair + kPair; k += kWidth) {
    const IntVec key = lanes() + static_cast<int>(k);
    const IntVec is_seen = key >= static_cast<int>(low) & key < static_cast<int>(high);
    store(scores + k, is_seen ? load(scores + k) : broadcast(kHidden));
  }
}

// tanh(score * scale) in place of the scores of the keys from low to high, and of those beside them.
inline void squash(float* scores, float scale, long low, long high) {
  const Pairs pairs(low, high);
  for (long k = pairs.begin; k < pairs.end; k += kWidth) store(scores + k, tanh(load(scores + k) * scale));
}

// Of no keys, it is that of a hidden one.
inline float largest_score(float* scores, long low, long high) {
  if (low == high) return kHidden;
  const Pairs pairs(low, high);
  hide_others(scores, pairs.begin, low, high);
  hide_others(scores, pairs.end - kPair, low, high);
  Vec most = load(scores + pairs.begin), beside = load(scores + pairs.begin + kWidth);
  for (long k = pairs.begin + kPair; k < pairs.end; k += kPair) {
    most = maximum(most, load(scores + k)), beside = maximum(beside, load(scores + k + kWidth));
  }
  return largest(maximum(most, beside));
}

// Weights 2^(score * scale - top) of the keys, 0 of the other ones up to `end`. Returns their sum, before they are
// rounded to T. `ahead()` is called once a pair.
template <class T, class Next>
float soften(const float* scores, float scale, float top, long low, long high, long end, T* weights,
             const Next& ahead) {
  // What is rounded to bf16 needs no better exponential.
  constexpr int kDegree = sizeof(T) == 2 ? 3 : 5;
  const Pairs pairs(low, high);
  Vec total = {}, beside = {};
  for (long k = 0; k < pairs.begin; k += kPair) store(weights + k, Vec{}, Vec{});
  for (long k = pairs.begin; k < pairs.end; k += kPair) {
    ahead();
    const Vec near = exp2<kDegree>(load(scores + k) * scale - top);
    const Vec far = exp2<kDegree>(load(scores + k + kWidth) * scale - top);
    store(weights + k, near, far);
    total += near, beside += far;
  }
  for (long k = pairs.end; k < end; k += kPair) store(weights + k, Vec{}, Vec{});
  return sum(total + beside);
}

}  // namespace quire
