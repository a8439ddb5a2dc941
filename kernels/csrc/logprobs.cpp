// What logprobs.py describes.

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/api.h"
#include "common/pool.h"
#include "common/simd.h"

#if defined(__GLIBC__) && defined(__x86_64__)
// The same function as log@GLIBC_2.29, by the name that older systems know, too: wheels are for glibc 2.28.
__asm__(".symver log, log@GLIBC_2.2.5");
#endif

namespace quire {
namespace {

// Whether a is likelier than b, apart from their places; a NaN is likelier than any number.
bool exceeds(float a, float b) { return a > b || (a != a && b == b); }

constexpr long kLook = 4 * kWidth;

// Whether one of the kLook numbers may exceed the bound.
bool may_exceed(const float* x, float bound) {
  const Vec infinity = broadcast(std::numeric_limits<float>::infinity());
  Vec best = -infinity;
  for (long i = 0; i < kLook; i += kWidth) {
    const Vec value = load(x + i);
    best = maximum(value == value ? value : infinity, best);
  }
  const float top = largest(best);
  return top > bound || std::isinf(top);
}

// The places of the `count` likeliest, in order; of equal ones the lower place first.
void find_top(const float* x, long size, long count, std::vector<int32_t>& top) {
  top.clear();
  const auto is_full = [&] { return static_cast<long>(top.size()) == count; };
  for (long i = 0; i < size; ++i) {
    // Nearly everywhere there is nothing to be seen.
    while (is_full() && i % kLook == 0 && i + kLook <= size && !may_exceed(x + i, x[top.back()])) i += kLook;
    if (i == size) return;
    if (is_full() && !exceeds(x[i], x[top.back()])) continue;
    if (is_full()) top.pop_back();
    const auto at = std::find_if(top.begin(), top.end(), [&](int32_t other) { return exceeds(x[i], x[other]); });
    top.insert(at, static_cast<int32_t>(i));
  }
}

// log(sum(exp(x - greatest))). Few numbers at a time are added up in float32.
double log_sum(const float* x, long size, float greatest) {
  constexpr long kFew = 64 * kWidth;
  double total = 0;
  for (long begin = 0; begin < size; begin += kFew) {
    const long end = std::min(begin + kFew, size);
    Vec part = {};
    for (long i = begin; i < end; i += kWidth) {
      Vec value = broadcast(-std::numeric_limits<float>::infinity());
      std::memcpy(&value, x + i, std::min<long>(kWidth, end - i) * sizeof(float));
      part += exp(value - greatest);
    }
    total += sum(part);
  }
  return std::log(total);
}

}  // namespace
}  // namespace quire

extern "C" void quire_logprobs(quire::Pool* pool, const float* logits, long size, const int64_t* tokens, long num_rows,
                               const int64_t* rows, long num_top, float* values, int32_t* top_ids) {
  pool->run(num_rows, [&](long row) {
    thread_local std::vector<int32_t> top;
    const float* x = logits + rows[row] * size;
    quire::find_top(x, size, std::max<long>(num_top, 1), top);
    const float greatest = x[top[0]];
    const double rest = std::isfinite(greatest) ? quire::log_sum(x, size, greatest) : NAN;
    float* value = values + row * (1 + num_top);
    value[0] = static_cast<float>(static_cast<double>(x[tokens[rows[row]]]) - greatest - rest);
    for (long i = 0; i < num_top; ++i) {
      value[1 + i] = static_cast<float>(static_cast<double>(x[top[i]]) - greatest - rest);
      top_ids[row * num_top + i] = top[i];
    }
  });
}
