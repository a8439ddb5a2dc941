// One token per row of logits: what sampling.py describes, without sorting a whole row.

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/api.h"
#include "common/pool.h"
#include "common/simd.h"

namespace quire {
namespace {

// Philox4x32-10 (Salmon et al., SC 2011), the first two words for the counter (position, 0) and the key `seed`.
double uniform(uint64_t seed, uint64_t position) {
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t a = uint64_t{0xD2511F53u} * c0, b = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0, c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1, c3 = static_cast<uint32_t>(a);
  }
  return static_cast<double>((uint64_t{c0} << 20) | (c1 >> 12)) * 0x1p-52;
}

// The first of the greatest; a NaN counts as greater than any number.
long argmax(const float* x, long size) {
  Vec best = broadcast(-std::numeric_limits<float>::infinity());
  bool broken = false;
  long i = 0;
  for (; i + kWidth <= size; i += kWidth) best = maximum(load(x + i), best);
  float top = largest(best);
  for (; i < size; ++i) top = std::max(top, x[i]);
  IntVec nan = {};
  for (i = 0; i + kWidth <= size; i += kWidth) nan |= load(x + i) != load(x + i);
  for (int lane = 0; lane < kWidth; ++lane) broken |= nan[lane] != 0;
  for (; i < size; ++i) broken |= x[i] != x[i];
  if (broken) return std::find_if(x, x + size, [](float v) { return v != v; }) - x;
  return std::min<long>(std::find(x, x + size, top) - x, size - 1);
}

struct Filter {
  long top_k = 0;
  float top_p = 1, min_p = 0;

  bool any() const { return top_k > 0 || top_p < 1 || min_p > 0; }
};

struct Scratch {
  std::vector<float> weights;  // of each token, 1 for the likeliest
  std::vector<int32_t> counts, kept;
  std::vector<double> masses;
};

// Weights by their upper 16 bits: in order, as they are not negative, and at most those of 1.
constexpr int kBuckets = (0x3f800000 >> 16) + 1;

int bucket_of(float weight) {
  uint32_t bits;
  std::memcpy(&bits, &weight, sizeof bits);
  return std::min<int>(static_cast<int>(bits >> 16), kBuckets - 1);
}

double weigh(const float* logits, long size, float temperature, float top, std::vector<float>& weights) {
  weights.resize(size + kWidth);
  double total = 0;
  for (long i = 0; i < size; i += kWidth) {
    Vec x = broadcast(top);
    std::memcpy(&x, logits + i, std::min<long>(kWidth, size - i) * sizeof(float));
    store(weights.data() + i, exp((x - top) / temperature));
  }
  for (long i = 0; i < size; ++i) total += weights[i];
  return total;
}

// Tokens that may survive, in descending order of weight, of equal ones the lower id first. They come from the buckets
// that hold the top_k likeliest, the top_p of the mass, or all that min_p allows.
void candidates(const Filter& filter, double total, long size, Scratch& s) {
  s.counts.assign(kBuckets, 0);
  s.masses.assign(kBuckets, 0);
  for (long i = 0; i < size; ++i) {
    const int b = bucket_of(s.weights[i]);
    ++s.counts[b], s.masses[b] += s.weights[i];
  }
  long count = 0;
  double mass = 0;
  int lowest = kBuckets - 1;
  // Where top_k counts, all of them are needed: top_p is relative to what they sum up to.
  const int least = filter.top_k == 0 && filter.min_p > 0 ? bucket_of(filter.min_p * 0.999f) : 0;
  for (; lowest > least; --lowest) {
    count += s.counts[lowest], mass += s.masses[lowest];
    // A little more than needed: sums by bucket are rounded differently.
    if (filter.top_k > 0 && count >= filter.top_k) break;
    if (filter.top_k == 0 && filter.top_p < 1 && mass > (filter.top_p + 1e-6) * total) break;
  }
  s.kept.clear();
  for (long i = 0; i < size; ++i)
    if (bucket_of(s.weights[i]) >= lowest) s.kept.push_back(static_cast<int32_t>(i));
  std::stable_sort(s.kept.begin(), s.kept.end(), [&](int32_t a, int32_t b) { return s.weights[a] > s.weights[b]; });
}

// Leaves in `kept` the tokens that pass, in order of their ids.
void keep_likely(const Filter& filter, double total, long size, Scratch& s) {
  candidates(filter, total, size, s);
  if (filter.top_k > 0 && static_cast<long>(s.kept.size()) > filter.top_k) s.kept.resize(filter.top_k);
  if (filter.top_k > 0 && filter.top_k < size) {
    total = 0;
    for (int32_t token : s.kept) total += s.weights[token];
  }
  double before = 0;
  size_t passed = 0;
  for (; passed < s.kept.size(); ++passed) {
    const float weight = s.weights[s.kept[passed]];
    const bool beyond = filter.top_p < 1 && before >= filter.top_p * total;
    if (passed > 0 && (beyond || weight < filter.min_p)) break;
    before += weight;
  }
  s.kept.resize(passed);
  std::sort(s.kept.begin(), s.kept.end());
}

// The first token whose cumulative weight exceeds u of the whole.
long draw(const float* logits, long size, float temperature, const Filter& filter, double u, Scratch& s) {
  const double total = weigh(logits, size, temperature, logits[argmax(logits, size)], s.weights);
  double sum = 0;
  if (!filter.any()) {
    for (long i = 0; i < size; ++i)
      if ((sum += s.weights[i]) > u * total) return i;
    return size - 1;
  }
  keep_likely(filter, total, size, s);
  double kept = 0;
  for (int32_t token : s.kept) kept += s.weights[token];
  for (int32_t token : s.kept)
    if ((sum += s.weights[token]) > u * kept) return token;
  return s.kept.empty() ? size - 1 : s.kept.back();
}

}  // namespace
}  // namespace quire

// Arrays as in `SamplingRows`; the first few are of `num_drawn`, from `filtered` on of `num_filtered`.
extern "C" void quire_sample(quire::Pool* pool, const float* logits, long num_rows, long size, long num_drawn,
                             const int64_t* drawn, const float* temperature, const int64_t* seed,
                             const int64_t* position, long num_filtered, const int64_t* filtered, const int64_t* top_k,
                             const float* top_p, const float* min_p, int64_t* tokens) {
  std::vector<long> drawn_at(num_rows, -1);
  std::vector<quire::Filter> filters(num_drawn);
  for (long i = 0; i < num_drawn; ++i) drawn_at[drawn[i]] = i;
  for (long i = 0; i < num_filtered; ++i) filters[filtered[i]] = {top_k[i], top_p[i], min_p[i]};
  pool->run(num_rows, [&](long row) {
    const float* x = logits + row * size;
    const long i = drawn_at[row];
    if (i < 0) {
      tokens[row] = quire::argmax(x, size);
      return;
    }
    thread_local quire::Scratch scratch;
    tokens[row] =
        quire::draw(x, size, temperature[i], filters[i],
                    quire::uniform(static_cast<uint64_t>(seed[i]), static_cast<uint64_t>(position[i])), scratch);
  });
}
