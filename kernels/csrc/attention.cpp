// Attention over a paged cache, as planned in attention_plan.cpp.

#include "attention.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "attention_amx.h"
#include "attention_latent.h"
#include "attention_softmax.h"
#include "common/api.h"
#include "common/lines.h"
#include "common/pool.h"

namespace quire {
namespace {

// Few rows wait for memory: a panel at a time, with what comes next on its way. Many are bound by the products.
constexpr long kFewRows = 6, kKeysOfFew = kKeys, kKeysOfMany = 4 * kKeys;
constexpr long kAhead = 2 * kKeys, kUpcoming = 4 * kKeys;
constexpr int kVecsOfPanel = kKeys / kWidth;

long round_up(long keys) { return (keys + kKeys - 1) / kKeys * kKeys; }

// Lines that are read soon. In one burst they would be more than the processor can have under way, and it would wait.
class Upcoming {
 public:
  void clear() { lines_.clear(), next_ = 0; }

  void add(const void* memory, long bytes) {
    for (long i = 0; i < bytes; i += kLine) lines_.push_back(static_cast<const char*>(memory) + i);
  }

  void fetch_one() {
    if (next_ < lines_.size()) fetch(lines_[next_++]);
  }

 private:
  std::vector<const char*> lines_;
  size_t next_ = 0;
};

// C = A * B for all rows and vectors of columns, in tiles that fill the registers; a line a step is fetched.
template <class T>
void multiply(long num_rows, const T* a, long lda, Columns<T> b, float* c, long ldc, Upcoming& upcoming) {
  const long num_vecs = b.stride;
  const auto ahead = [&upcoming] { upcoming.fetch_one(); };
  auto strip = [&]<int kVecs, int kRows>(long v) {
    Columns<T> columns = b;
    columns.vectors += v;
    for (long r = 0; r < num_rows; r += kRows) {
      const int height = static_cast<int>(std::min<long>(kRows, num_rows - r));
      any_tile<T, kVecs, kRows>(height, a + r * lda, lda, columns, c + r * ldc + v * kWidth, ldc, ahead);
    }
    return v + kVecs;
  };
  // Few rows take more columns at a time: sums that wait for each other would leave the multipliers idle.
  constexpr int kWide = 4, kWideRows = kWidth == 16 ? 6 : 3;
  for (long v = 0; v < num_vecs;) {
    if (num_rows <= kWideRows && v + kWide <= num_vecs) {
      v = strip.template operator()<kWide, kWideRows>(v);
    } else if (v + 2 <= num_vecs) {
      v = strip.template operator()<2, kTileRows>(v);
    } else {
      v = strip.template operator()<1, kTileRows>(v);
    }
  }
}

// A sum of 0 is that of a row that has seen nothing yet; what its largest is then does not matter.
void merge(State into, State from, long rows, long dim) {
  for (long r = 0; r < rows; ++r) {
    if (from.sum[r] == 0) continue;
    const bool is_first = into.sum[r] == 0;
    float largest = is_first ? from.largest[r] : std::max(into.largest[r], from.largest[r]);
    float old_scale = is_first ? 0 : exp2(broadcast(into.largest[r] - largest))[0];
    float new_scale = exp2(broadcast(from.largest[r] - largest))[0];
    into.largest[r] = largest;
    into.sum[r] = into.sum[r] * old_scale + from.sum[r] * new_scale;
    for (long d = 0; d < dim; d += kWidth) {
      Vec sum = load(into.output + r * dim + d) * old_scale + load(from.output + r * dim + d) * new_scale;
      store(into.output + r * dim + d, sum);
    }
  }
}

// Grows to what the largest item needs and stays.
template <class T>
struct Scratch {
  Lines<T> queries, weights, values;  // the last of a latent cache
  Lines<float> scores, states;
  std::vector<const T*> vectors;
  Upcoming upcoming;

  void reserve(const Shape& shape) {
    const long rows = shape.tile() * shape.groups();
    queries.resize(rows * shape.head_dim);
    weights.resize(rows * kSplit);
    scores.resize(rows * kSplit);
    states.resize(2 * State::size(rows, shape.value_dim()));
    if (shape.is_latent()) values.resize(kSplit * shape.value_dim());
    vectors.resize(kSplit / kKeys * shape.head_dim / kWidth);
  }
};

template <class T>
struct Worker {
  Plan& plan;
  const T* cache;
  const T* q;
  long q_stride;  // between tokens
  T* out;
  const float* sinks;  // of each query head, or null
  Scratch<T>& scratch;
  const Item* next;  // what this thread will probably compute behind this one, or null

  const Shape& shape() const { return plan.shape; }

  // The keys of the item's head at a position that kKeys divides, and the values there.
  const T* keys(const Item& item, long position) const {
    const long size = shape().block_size, block = plan.kv_indices[plan.starts[item.row] + position / size];
    return cache + block * shape().block() + item.kv_head * shape().head() + position % size * shape().head_dim;
  }

  const T* cached_values(const Item& item, long position) const { return keys(item, position) + shape().side(); }

  // The values there, of the split whose keys begin at `begin`.
  const T* values(const Item& item, long position, long begin) const {
    return shape().is_latent() ? scratch.values.data() + (position - begin) * shape().value_dim()
                               : cached_values(item, position);
  }

  void turn_values(const Item& item, long begin, long end) {
    for (long key = begin; key < end; key += kKeys) {
      turn_panel(keys(item, key), shape().value_dim(), std::min(kKeys, end - key),
                 scratch.values.data() + (key - begin) * shape().value_dim());
    }
  }

  // Positions of a split that any query of the item sees: from a multiple of kKeys, up to.
  std::pair<long, long> range(const Item& item, long split) const {
    return {std::max(split * kSplit, plan.begin_of(item.query) / kKeys * kKeys),
            std::min((split + 1) * kSplit, plan.end_of(item.query + item.num_queries - 1))};
  }

  void gather_queries(const Item& item) {
    const long size = shape().groups() * shape().head_dim;
    for (long t = 0; t < item.num_queries; ++t) {
      const T* from = q + plan.queries[item.query + t] * q_stride + item.kv_head * size;
      std::copy(from, from + size, scratch.queries.data() + t * size);
    }
  }

  long panel_bytes() const { return kKeys * shape().head_dim * static_cast<long>(sizeof(T)); }

  // Blocks lie anywhere, and the hardware does not guess where the next one is. Always inline: GCC takes a function
  // that only fetches for one without effects, and drops calls of it.
  [[gnu::always_inline]] void prefetch(const T* panel) const {
    constexpr long kStep = kLine / static_cast<long>(sizeof(T));
    for (long i = 0; i < kKeys * shape().head_dim; i += kStep) fetch(panel + i);
  }

  [[gnu::always_inline]] void prefetch_around(const Item& item, long key, long end) const {
    if (key + kAhead < end) prefetch(keys(item, key + kAhead));
    if (!shape().is_latent()) prefetch(cached_values(item, key));
  }

  // While a split's weights and output are computed, memory would have nothing to do: the next split's first keys.
  void expect_split_after(const Item& item, long split) {
    scratch.upcoming.clear();
    const bool is_last = split + 1 == item.split_end;
    const Item* of = is_last ? next : &item;
    if (!of || of->split_begin == of->split_end || plan.rows_of(*of) > kFewRows) return;
    const auto [begin, end] = range(*of, is_last ? of->split_begin : split + 1);
    for (long key = begin; key < std::min(end, begin + kUpcoming); key += kKeys) {
      scratch.upcoming.add(keys(*of, key), panel_bytes());
    }
  }

  // One split of an item; `state` is overwritten.
  void compute_split(const Item& item, long split, State state) {
    const long rows = plan.rows_of(item);
    const auto [begin, end] = range(item, split);
    score(item, begin, end, rows);
    expect_split_after(item, split);
    for (long t = 0; t < item.num_queries; ++t) {
      const long low = std::clamp(plan.begin_of(item.query + t), begin, end) - begin;
      const long high = std::clamp(plan.end_of(item.query + t), begin, end) - begin;
      soften_query(t * shape().groups(), low, high, round_up(end - begin), state);
    }
    if (shape().is_latent()) turn_values(item, begin, end);
    weigh(item, begin, end, rows, state.output);
  }

  void score(const Item& item, long begin, long end, long rows) {
#if defined(__AMX_BF16__)
    if constexpr (sizeof(T) == 2) {
      if (is_on_amx()) return score_on_amx(item, begin, end, rows);
    }
#endif
    const long dim = shape().head_dim, size = rows <= kFewRows ? kKeysOfFew : kKeysOfMany;
    for (long group = begin; group < end; group += size) {
      const long stop = std::min(group + size, end);
      long count = 0;
      for (long key = group; key < stop; key += kKeys) {
        const T* panel = keys(item, key);
        prefetch_around(item, key, end);
        for (int v = 0; v < kVecsOfPanel; ++v) scratch.vectors[count++] = panel + v * kWidth * kPack<T>;
      }
      multiply(rows, scratch.queries.data(), dim, {scratch.vectors.data(), count, 1, dim / kPack<T>, kKeys * kPack<T>},
               scratch.scores.data() + group - begin, kSplit, scratch.upcoming);
    }
  }

  // The rows of one query, which sees the keys from low to high: all largest scores first, which do not wait for each
  // other. Weights are there up to `end`.
  void soften_query(long row, long low, long high, long end, State state) {
    const long behind = row + shape().groups();
    float scale = kLog2E / shape().divisor;
    if (shape().soft_cap != kNoCap) {
      scale = kLog2E * shape().soft_cap;
      for (long r = row; r < behind; ++r) {
        squash(scratch.scores.data() + r * kSplit, 1 / (shape().divisor * shape().soft_cap), low, high);
      }
    }
    for (long r = row; r < behind; ++r) {
      state.largest[r] = largest_score(scratch.scores.data() + r * kSplit, low, high) * scale;
    }
    for (long r = row; r < behind; ++r) {
      state.sum[r] = soften(scratch.scores.data() + r * kSplit, scale, state.largest[r], low, high, end,
                            scratch.weights.data() + r * kSplit, [this] { scratch.upcoming.fetch_one(); });
    }
  }

  void weigh(const Item& item, long begin, long end, long rows, float* output) {
#if defined(__AMX_BF16__)
    if constexpr (sizeof(T) == 2) {
      if (is_on_amx()) return weigh_on_amx(item, begin, end, rows, output);
    }
#endif
    const long dim = shape().value_dim(), num_vecs = dim / kWidth;
    long count = 0;
    for (long key = begin; key < end; key += kKeys) {
      const T* panel = values(item, key, begin);
      for (long v = 0; v < num_vecs; ++v) scratch.vectors[count++] = panel + v * kWidth * kPack<T>;
    }
    multiply(rows, scratch.weights.data(), kSplit,
             {scratch.vectors.data(), num_vecs, count / num_vecs, kKeys / kPack<T>, dim * kPack<T>}, output, dim,
             scratch.upcoming);
  }

#if defined(__AMX_BF16__)
  bool is_on_amx() const { return sizeof(T) == 2 && is_for_amx(shape().head_dim) && is_for_amx(shape().value_dim()); }

  // Panels in pairs; beside an odd one it is computed again, for scores that are ignored.
  void score_on_amx(const Item& item, long begin, long end, long rows) {
    for (long key = begin; key < end; key += 2 * kKeys) {
      const bool is_pair = key + kKeys < end;
      const long stop = rows <= kFewRows ? std::min(end, key + 2 * kKeys) : key;  // many rows wait for the products
      for (long upcoming = key; upcoming < stop; upcoming += kKeys) prefetch_around(item, upcoming, end);
      amx_scores(rows, scratch.queries.data(), shape().head_dim, keys(item, key),
                 keys(item, is_pair ? key + kKeys : key), scratch.scores.data() + key - begin,
                 [this] { scratch.upcoming.fetch_one(); });
    }
  }

  void weigh_on_amx(const Item& item, long begin, long end, long rows, float* output) {
    long count = 0;
    for (long key = begin; key < end; key += kKeys) scratch.vectors[count++] = values(item, key, begin);
    amx_output(rows, scratch.weights.data(), scratch.vectors.data(), count, shape().value_dim(), output,
               [this] { scratch.upcoming.fetch_one(); });
  }
#endif

  // What has been computed of an item, or of a part, stays in the scratch until it is published.
  State total(const Item& item) const { return State(scratch.states.data(), plan.rows_of(item)); }

  long size_of_state(const Item& item) const { return State::size(plan.rows_of(item), shape().value_dim()); }

  void compute_part(const Item& item) {
    gather_queries(item);
    compute_split(item, item.split_begin, total(item));
  }

  void publish_part(const Item& item) {
    std::copy_n(scratch.states.data(), size_of_state(item), plan.states.data() + item.state);
  }

  void compute(const Item& item) {
    const long rows = plan.rows_of(item), dim = shape().value_dim(), size = size_of_state(item);
    State total = this->total(item), next(scratch.states.data() + size, rows);
    if (item.num_parts > 0) std::fill_n(scratch.states.data(), size, 0.0f);
    for (long p = item.part; p < item.part + item.num_parts; ++p) {
      const PartOf& part = plan.parts_of[p];
      merge(total, State(plan.states.data() + part.state, part.num_rows).from(part.first_row, dim), rows, dim);
    }
    if (item.split_begin < item.split_end) gather_queries(item);
    for (long split = item.split_begin; split < item.split_end; ++split) {
      const bool is_first = split == item.split_begin && item.num_parts == 0;
      compute_split(item, split, is_first ? total : next);
      if (!is_first) merge(total, next, rows, dim);
    }
  }

  void publish(const Item& item) {
    const State state = total(item);
    const long groups = shape().groups(), dim = shape().value_dim();
    for (long r = 0; r < plan.rows_of(item); ++r) {
      const long token = plan.queries[item.query + r / groups], head = item.kv_head * groups + r % groups;
      T* to = out + (token * shape().num_qo_heads + head) * dim;
      float sum = state.sum[r];
      // A sink that is larger by more leaves nothing of the keys either way.
      if (sinks) sum += exp2(broadcast(std::min(sinks[head] * kLog2E - state.largest[r], 127.0f)))[0];
      for (long d = 0; d < dim; d += kWidth) store(to + d, load(state.output + r * dim + d) / sum);
    }
  }
};

template <class T>
void attend(Team& team, Plan& plan, const void* cache, const void* q, long q_stride, void* out, const float* sinks) {
  auto all = [&](const std::vector<Item>& items, auto compute, auto publish) {
    thread_local Scratch<T> scratch;
    scratch.reserve(plan.shape);
    Worker<T> worker{
        plan,   static_cast<const T*>(cache), static_cast<const T*>(q), q_stride, static_cast<T*>(out), sinks, scratch,
        nullptr};
    team.run(
        static_cast<long>(items.size()),
        [&](long i) {
          worker.next = i + 1 < static_cast<long>(items.size()) ? &items[i + 1] : nullptr;
#if defined(__AMX_BF16__)
          std::optional<AmxTiles> tiles;
          if (worker.is_on_amx()) tiles.emplace(attention_shapes(plan.rows_of(items[i])));
#endif
          (worker.*compute)(items[i]);
        },
        [&](long i) { (worker.*publish)(items[i]); });
  };
  all(plan.parts, &Worker<T>::compute_part, &Worker<T>::publish_part);
  all(plan.items, &Worker<T>::compute, &Worker<T>::publish);
}

}  // namespace

void attention(Team& team, Plan& plan, int is_bf16, const void* cache, const void* q, long q_stride, void* out,
               const float* sinks) {
  auto* run = is_bf16 ? &attend<bf16> : &attend<float>;
  run(team, plan, cache, q, q_stride, out, sinks);
}

}  // namespace quire

extern "C" void quire_attention_run(quire::Plan* plan, quire::Pool* pool, int is_bf16, const void* cache, const void* q,
                                    long q_stride, void* out, const float* sinks) {
  pool->together([&](quire::Team& team) { quire::attention(team, *plan, is_bf16, cache, q, q_stride, out, sinks); });
}
