// Writes keys and values to their places in the cache; before, rotates queries and keys where there are angles.

#include <algorithm>

#include "attention.h"
#include "common/api.h"
#include "common/pool.h"

namespace quire {
namespace {

constexpr long kMostDim = 576;

// Rotates pairs (d, d + half) of one head.
template <class T, class Put>
void rotate(const T* x, const float* cos_sin, long half, const Put& put) {
  for (long d = 0; d < half; d += kWidth) {
    if (d + kWidth > half) d = half - kWidth;  // may do some twice
    Vec first = load(x + d), second = load(x + half + d), cosine = load(cos_sin + d), sine = load(cos_sin + half + d);
    put(d, first * cosine - second * sine, second * cosine + first * sine);
  }
}

// One token's head into its places in a block.
template <class T>
void put_key(T* head, long offset, long dim, const T* key) {
  T* panel = head + offset / kKeys * kKeys * dim + offset % kKeys * kPack<T>;
  for (long d = 0; d < dim; d += kPack<T>) std::copy(key + d, key + d + kPack<T>, panel + d * kKeys);
}

// `alone`: the step has no token of the same sequence behind this one. If it has, that token writes its half of the
// pair itself, perhaps at the same time. Values behind the last token meet weights of 0, but a stale NaN would survive
// that: what is left of the panel becomes zeros.
template <class T>
void put_value(T* head, long offset, long dim, const T* value, bool alone) {
  T* group = head + offset / kPack<T> * kPack<T> * dim;
  const long half = offset % kPack<T>;
  if (alone && half == 0) {
    for (long d = 0; d < dim; ++d) {
      group[d * kPack<T>] = value[d];
      for (long other = 1; other < kPack<T>; ++other) group[d * kPack<T> + other] = T{};
    }
  } else {
    for (long d = 0; d < dim; ++d) group[d * kPack<T> + half] = value[d];
  }
  if (!alone) return;
  std::fill(group + kPack<T> * dim, head + (offset / kKeys + 1) * kKeys * dim, T{});
}

template <class T>
struct Append {
  const Plan& plan;
  T *cache, *q, *k;
  const T* v;                         // not of a latent cache
  long q_stride, k_stride, v_stride;  // between tokens
  const float* cos_sin;               // null: the keys are ready, and there are no queries
  const int64_t* positions;
  const int64_t* slots;
  long num_tokens;

  void token(long t) const {
    const Shape& shape = plan.shape;
    const long dim = shape.head_dim, half = dim / 2;
    const float* angles = cos_sin ? cos_sin + positions[t] * dim : nullptr;
    T rotated[kMostDim];
    auto turn = [&](const T* x, T* to) {
      rotate(x, angles, half,
             [&](long d, Vec first, Vec second) { store(to + d, first), store(to + half + d, second); });
    };
    for (int head = 0; angles && head < shape.num_qo_heads; ++head) {
      T* x = q + t * q_stride + head * dim;
      if (half % kWidth == 0) {  // no number is rotated twice
        turn(x, x);
      } else {
        turn(x, rotated);
        std::copy(rotated, rotated + dim, x);
      }
    }
    const long block = slots[t] / shape.block_size, offset = slots[t] % shape.block_size;
    // The next token of the same sequence, if this step has it, writes behind this one itself.
    const bool alone = t + 1 == num_tokens || slots[t + 1] != slots[t] + 1;
    T* keys = cache + block * shape.block();
    for (int head = 0; head < shape.num_kv_heads; ++head) {
      const T* key = k + t * k_stride + head * dim;
      if (angles) turn(key, rotated), key = rotated;
      put_key(keys + head * shape.head(), offset, dim, key);
      if (shape.is_latent()) continue;
      put_value(keys + shape.side() + head * shape.head(), offset, dim, v + t * v_stride + head * dim, alone);
    }
  }

  void run(Team& team) const {
    const double cost = 0.5 * (plan.shape.num_qo_heads + 4 * plan.shape.num_kv_heads) * plan.shape.head_dim;
    team.run_range(num_tokens, cost, [&](long begin, long end) {
      for (long t = begin; t < end; ++t) token(t);
    });
  }
};

}  // namespace

void append(Team& team, const Plan& plan, int is_bf16, void* cache, void* q, void* k, const void* v, long q_stride,
            long k_stride, long v_stride, const float* cos_sin, const int64_t* positions, const int64_t* slots,
            long num_tokens) {
  auto run = [&]<class T>(T) {
    Append<T>{plan,
              static_cast<T*>(cache),
              static_cast<T*>(q),
              static_cast<T*>(k),
              static_cast<const T*>(v),
              q_stride,
              k_stride,
              v_stride,
              cos_sin,
              positions,
              slots,
              num_tokens}
        .run(team);
  };
  is_bf16 ? run(bf16{}) : run(float{});
}

}  // namespace quire

extern "C" void quire_attention_append(const quire::Plan* plan, quire::Pool* pool, int is_bf16, void* cache, void* q,
                                       void* k, const void* v, long q_stride, long k_stride, long v_stride,
                                       const float* cos_sin, const int64_t* positions, const int64_t* slots,
                                       long num_tokens) {
  pool->together([&](quire::Team& team) {
    quire::append(team, *plan, is_bf16, cache, q, k, v, q_stride, k_stride, v_stride, cos_sin, positions, slots,
                  num_tokens);
  });
}
