// Attention over a paged cache whose blocks are laid out as panels of matrix products. Of one block:
//
//   keys     [kv_head][token / 16][dim / kPack][16][kPack]        B of   scores = queries * keys^T
//   values   [kv_head][token / kPack][dim][kPack]                 B of   output = weights * values
//
// The keys of a row are cut at multiples of kSplit positions. A split has its own softmax (maximum, sum, weighted
// values), and splits are merged in order of position (Milakov and Gimelshein, 2018; Dao et al., 2022). Neither
// the cuts nor the order depend on the batch, on the chunk a query came in, or on the number of threads, so a
// token's result is the same, to the bit, whenever and beside whatever it is computed.

#include <algorithm>
#include <cmath>
#include <vector>

#include "../native/api.h"
#include "../native/pool.h"
#include "../native/tile.h"

namespace quire {

struct Shape {
  int num_qo_heads, num_kv_heads, head_dim, block_size, window;

  int groups() const { return num_qo_heads / num_kv_heads; }
  long side() const { return static_cast<long>(block_size) * num_kv_heads * head_dim; }
  long block() const { return 2 * side(); }
  long head() const { return static_cast<long>(block_size) * head_dim; }
};

// Some queries of one row for one KV head, and the splits that one thread does in one go.
struct Item {
  int row, kv_head;
  long first_token, num_tokens;  // among the tokens of the step
  long first_position;           // of the first token
  long split_begin, split_end;
  long partial;                  // where its result goes if others share its queries, else -1
};

struct Group {  // items of the same queries, one split each, to be merged
  long first_item, num_items;
};

struct Plan {
  Shape shape;
  std::vector<int32_t> kv_indices;
  std::vector<int32_t> starts;  // of each row in kv_indices
  std::vector<Item> items;
  std::vector<Group> groups;
  std::vector<float> partials;

  long rows_of(const Item& item) const { return item.num_tokens * shape.groups(); }
};

namespace {

constexpr long kSplit = 256;
constexpr long kKeys = 16;       // keys of one panel
constexpr long kMostRows = 48;   // rows (query tokens times heads of a group) of one item
constexpr long kAhead = 2 * kKeys;  // distance of prefetching
constexpr long kMostDim = 512;
constexpr int kNoWindow = 0;

long round_up(long keys) { return (keys + kKeys - 1) / kKeys * kKeys; }

// Running softmax of some rows: output is not yet divided by the sum.
struct State {
  float* largest;  // [rows]
  float* sum;      // [rows]
  float* output;   // [rows][head_dim]

  static long size(long rows, long head_dim) { return rows * (head_dim + 2); }
  State(float* memory, long rows) : largest(memory), sum(memory + rows), output(memory + 2 * rows) {}
};

void merge(State into, State from, long rows, long head_dim) {
  for (long r = 0; r < rows; ++r) {
    if (from.sum[r] == 0) continue;
    float largest = std::max(into.largest[r], from.largest[r]);
    float old_scale = into.sum[r] == 0 ? 0 : exp2(broadcast(into.largest[r] - largest))[0];
    float new_scale = exp2(broadcast(from.largest[r] - largest))[0];
    into.largest[r] = largest;
    into.sum[r] = into.sum[r] * old_scale + from.sum[r] * new_scale;
    for (long d = 0; d < head_dim; d += kWidth) {
      Vec sum = load(into.output + r * head_dim + d) * old_scale + load(from.output + r * head_dim + d) * new_scale;
      store(into.output + r * head_dim + d, sum);
    }
  }
}

template <class T>
struct Worker {
  const Plan& plan;
  const T* cache;
  const T* q;
  long q_stride;  // between tokens
  T* out;
  // Grow to what the largest item needs and stay.
  std::vector<T>& queries;
  std::vector<T>& weights;
  std::vector<float>& scores;
  std::vector<float>& states;

  const Shape& shape() const { return plan.shape; }

  // The keys of the item's head at a position that kKeys divides, and the values there.
  const T* keys(const Item& item, long position) const {
    const long size = shape().block_size, block = plan.kv_indices[plan.starts[item.row] + position / size];
    return cache + block * shape().block() + item.kv_head * shape().head() + position % size * shape().head_dim;
  }

  const T* values(const Item& item, long position) const { return keys(item, position) + shape().side(); }

  // Blocks lie anywhere, and the hardware does not guess where the next one is.
  void prefetch(const T* panel) const {
    constexpr long kLine = 64 / sizeof(T);
    for (long i = 0; i < kKeys * shape().head_dim; i += kLine) __builtin_prefetch(panel + i, 0, 2);
  }

  // Positions that token `t` of the item sees.
  std::pair<long, long> visible(const Item& item, long t) const {
    long end = item.first_position + t + 1;
    return {shape().window == kNoWindow ? 0 : std::max(0L, end - shape().window), end};
  }

  void gather_queries(const Item& item) {
    const long groups = shape().groups(), dim = shape().head_dim;
    for (long t = 0; t < item.num_tokens; ++t) {
      const T* from = q + (item.first_token + t) * q_stride + item.kv_head * groups * dim;
      std::copy(from, from + groups * dim, queries.data() + t * groups * dim);
    }
  }

  // One split of an item; `state` is overwritten.
  void compute_split(const Item& item, long split, State state) {
    const long rows = plan.rows_of(item);
    const long last = visible(item, item.num_tokens - 1).second;
    const long begin = std::max(split * kSplit, visible(item, 0).first / kKeys * kKeys);
    const long end = std::min((split + 1) * kSplit, last);
    score(item, begin, end, rows);
    for (long t = 0; t < item.num_tokens; ++t) {
      auto [low, high] = visible(item, t);
      low = std::clamp(low, begin, end), high = std::clamp(high, begin, end);
      for (long r = t * shape().groups(); r < (t + 1) * shape().groups(); ++r) {
        soften(scores.data() + r * kSplit, weights.data() + r * kSplit, low - begin, high - begin,
               round_up(end - begin), &state.largest[r], &state.sum[r]);
      }
    }
    weigh(item, begin, end, rows, state.output);
  }

  void score(const Item& item, long begin, long end, long rows) {
    const long dim = shape().head_dim;
    for (long key = begin; key < end; key += kKeys) {
      const T* panel = keys(item, key);
      if (key + kAhead < end) prefetch(keys(item, key + kAhead));
      prefetch(values(item, key));
      for (long r = 0; r < rows; r += kTileRows) {
        any_tile<T, kKeys>(static_cast<int>(std::min<long>(kTileRows, rows - r)), queries.data() + r * dim, dim,
                           Segments<T>{&panel, 1, dim / kPack<T>}, kKeys * kPack<T>, scores.data() + r * kSplit + key - begin,
                           kSplit, Ahead{reinterpret_cast<const char*>(panel), 0});
      }
    }
  }

  // Weights 2^(score - largest) of the keys from low to high, 0 for the other ones up to `end`.
  void soften(const float* score, T* weight, long low, long high, long end, float* largest_out, float* sum_out) {
    const float scale = kLog2E / std::sqrt(static_cast<float>(shape().head_dim));
    const Vec none = broadcast(-std::numeric_limits<float>::infinity());
    Vec most = none, total = {};
    const long first = low / kWidth * kWidth;
    auto seen = [&](long k) {
      IntVec index = lanes() + static_cast<int>(k);
      return (index >= static_cast<int>(low)) & (index < static_cast<int>(high));
    };
    for (long k = first; k < high; k += kWidth) most = maximum(most, seen(k) ? load(score + k) : none);
    const float top = largest(most) * scale;
    for (long k = 0; k < end; k += kWidth) {
      Vec w = {};
      if (k >= first && k < high) w = seen(k) ? exp2(load(score + k) * scale - top) : Vec{};
      store(weight + k, w);
      total += w;
    }
    *largest_out = low < high ? top : -std::numeric_limits<float>::infinity();
    *sum_out = sum(total);
  }

  void weigh(const Item& item, long begin, long end, long rows, float* output) {
    const long dim = shape().head_dim;
    const T* panels[kSplit / kKeys];
    const long count = round_up(end - begin) / kKeys;
    for (long d = 0; d < dim;) {
      const bool wide = dim - d >= kPanel;
      for (long i = 0; i < count; ++i) {
        panels[i] = values(item, begin + i * kKeys) + d * kPack<T>;
      }
      for (long r = 0; r < rows; r += kTileRows) {
        const int height = static_cast<int>(std::min<long>(kTileRows, rows - r));
        const T* a = weights.data() + r * kSplit;
        float* c = output + r * dim + d;
        Segments<T> b{panels, count, kKeys / kPack<T>};
        if (wide) {
          any_tile<T, kPanel>(height, a, kSplit, b, dim * kPack<T>, c, dim, Ahead{reinterpret_cast<const char*>(panels[0]), 0});
        } else {
          any_tile<T, kKeys>(height, a, kSplit, b, dim * kPack<T>, c, dim, Ahead{reinterpret_cast<const char*>(panels[0]), 0});
        }
      }
      d += wide ? kPanel : kKeys;
    }
  }

  void run(const Item& item, float* partials) {
    const long rows = plan.rows_of(item), dim = shape().head_dim, size = State::size(rows, dim);
    gather_queries(item);
    if (item.partial >= 0) {
      compute_split(item, item.split_begin, State(partials + item.partial, rows));
      return;
    }
    State total(states.data(), rows), part(states.data() + size, rows);
    compute_split(item, item.split_begin, total);
    for (long split = item.split_begin + 1; split < item.split_end; ++split) {
      compute_split(item, split, part);
      merge(total, part, rows, dim);
    }
    finish(item, total);
  }

  void finish(const Item& item, State state) {
    const long groups = shape().groups(), dim = shape().head_dim;
    for (long r = 0; r < plan.rows_of(item); ++r) {
      long token = item.first_token + r / groups, head = item.kv_head * groups + r % groups;
      T* to = out + (token * shape().num_qo_heads + head) * dim;
      for (long d = 0; d < dim; d += kWidth) store(to + d, load(state.output + r * dim + d) / state.sum[r]);
    }
  }
};

template <class T>
Worker<T> worker(const Plan& plan, const void* cache, const void* q, long q_stride, void* out) {
  thread_local std::vector<T> queries, weights;
  thread_local std::vector<float> scores, states;
  const long most = std::max<long>(kMostRows, plan.shape.groups());
  queries.resize(most * plan.shape.head_dim);
  weights.resize(most * kSplit);
  scores.resize(most * kSplit);
  states.resize(2 * State::size(most, plan.shape.head_dim));
  return {plan, static_cast<const T*>(cache), static_cast<const T*>(q), q_stride, static_cast<T*>(out),
          queries, weights, scores, states};
}

template <class T>
void attend(Plan& plan, Pool& pool, const void* cache, const void* q, long q_stride, void* out) {
  pool.run(static_cast<long>(plan.items.size()), [&](long i) {
    worker<T>(plan, cache, q, q_stride, out).run(plan.items[i], plan.partials.data());
  });
  pool.run(static_cast<long>(plan.groups.size()), [&](long i) {
    const Group& group = plan.groups[i];
    const Item& first = plan.items[group.first_item];
    const long rows = plan.rows_of(first), dim = plan.shape.head_dim;
    State total(plan.partials.data() + first.partial, rows);
    for (long n = 1; n < group.num_items; ++n) {
      merge(total, State(plan.partials.data() + plan.items[group.first_item + n].partial, rows), rows, dim);
    }
    worker<T>(plan, cache, q, q_stride, out).finish(first, total);
  });
}

// Tiles of queries times KV heads; where these are too few for the threads, each split is an item of its own.
void make_items(Plan& plan, int num_threads, int num_rows, const int32_t* qo_indptr, const int32_t* kv_lens) {
  const Shape& shape = plan.shape;
  const long tile = std::max(1L, kMostRows / shape.groups());
  long num_tiles = 0;
  for (int r = 0; r < num_rows; ++r) num_tiles += (qo_indptr[r + 1] - qo_indptr[r] + tile - 1) / tile * shape.num_kv_heads;
  const bool share = num_threads > 1 && num_tiles < 8L * num_threads;
  long partial = 0;
  plan.items.clear();
  plan.groups.clear();
  for (int r = 0; r < num_rows; ++r) {
    for (int head = 0; head < shape.num_kv_heads; ++head) {
      for (long token = qo_indptr[r]; token < qo_indptr[r + 1]; token += tile) {
        long count = std::min(tile, qo_indptr[r + 1] - token);
        long position = kv_lens[r] - (qo_indptr[r + 1] - token);
        long low = shape.window == kNoWindow ? 0 : std::max(0L, position + 1 - shape.window) / kSplit;
        long high = (position + count + kSplit - 1) / kSplit;
        if (!share || high - low == 1) {
          plan.items.push_back({r, head, token, count, position, low, high, -1});
          continue;
        }
        plan.groups.push_back({static_cast<long>(plan.items.size()), high - low});
        for (long split = low; split < high; ++split) {
          plan.items.push_back({r, head, token, count, position, split, split + 1, partial});
          partial += State::size(count * shape.groups(), shape.head_dim);
        }
      }
    }
  }
  if (partial > static_cast<long>(plan.partials.size())) plan.partials.resize(partial);
}

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

template <class T>
void put_value(T* head, long offset, long dim, const T* value, bool alone) {
  T* group = head + offset / kPack<T> * kPack<T> * dim;
  for (long d = 0; d < dim; ++d) group[d * kPack<T> + offset % kPack<T>] = value[d];
  if (!alone) return;
  // Values behind the last token meet weights of 0, but a stale NaN would survive that.
  for (long later = offset + 1; later % kKeys != 0; ++later) {
    T* rest = head + later / kPack<T> * kPack<T> * dim;
    for (long d = 0; d < dim; ++d) rest[d * kPack<T> + later % kPack<T>] = T{};
  }
}

template <class T>
struct Append {
  const Plan& plan;
  T *cache, *q, *k;
  const T* v;
  long q_stride, k_stride, v_stride;  // between tokens
  const float* cos_sin;
  const int64_t* positions;
  const int64_t* slots;
  long num_tokens;

  void token(long t) const {
    const Shape& shape = plan.shape;
    const long dim = shape.head_dim, half = dim / 2;
    const float* angles = cos_sin + positions[t] * dim;
    T rotated[kMostDim];
    auto turn = [&](const T* x) {
      rotate(x, angles, half, [&](long d, Vec first, Vec second) {
        store(rotated + d, first), store(rotated + half + d, second);
      });
    };
    for (int head = 0; head < shape.num_qo_heads; ++head) {
      T* x = q + t * q_stride + head * dim;
      turn(x);
      std::copy(rotated, rotated + dim, x);
    }
    const long block = slots[t] / shape.block_size, offset = slots[t] % shape.block_size;
    // The next token of the same sequence, if this step has it, writes behind this one itself.
    const bool alone = t + 1 == num_tokens || slots[t + 1] != slots[t] + 1;
    T* keys = cache + block * shape.block();
    for (int head = 0; head < shape.num_kv_heads; ++head) {
      turn(k + t * k_stride + head * dim);
      put_key(keys + head * shape.head(), offset, dim, rotated);
      put_value(keys + shape.side() + head * shape.head(), offset, dim, v + t * v_stride + head * dim, alone);
    }
  }

  void run(Pool& pool) const {
    const double cost = 0.5 * (plan.shape.num_qo_heads + 4 * plan.shape.num_kv_heads) * plan.shape.head_dim;
    pool.run_range(num_tokens, cost, [&](long begin, long end) {
      for (long t = begin; t < end; ++t) token(t);
    });
  }
};

}  // namespace
}  // namespace quire

using quire::bf16;

extern "C" {

quire::Plan* quire_attention_new(int num_qo_heads, int num_kv_heads, int head_dim, int block_size, int window) {
  auto* plan = new quire::Plan{};
  plan->shape = {num_qo_heads, num_kv_heads, head_dim, block_size, window};
  return plan;
}

void quire_attention_delete(quire::Plan* plan) { delete plan; }

void quire_attention_plan(quire::Plan* plan, int num_threads, int num_rows, const int32_t* qo_indptr,
                          const int32_t* kv_indptr, const int32_t* kv_indices, const int32_t* kv_lens) {
  plan->starts.assign(kv_indptr, kv_indptr + num_rows);
  plan->kv_indices.assign(kv_indices, kv_indices + kv_indptr[num_rows]);
  quire::make_items(*plan, num_threads, num_rows, qo_indptr, kv_lens);
}

void quire_attention_run(quire::Plan* plan, quire::Pool* pool, int is_bf16, const void* cache, const void* q,
                         long q_stride, void* out) {
  auto* run = is_bf16 ? &quire::attend<bf16> : &quire::attend<float>;
  run(*plan, *pool, cache, q, q_stride, out);
}

void quire_attention_append(const quire::Plan* plan, quire::Pool* pool, int is_bf16, void* cache, void* q, void* k,
                            const void* v, long q_stride, long k_stride, long v_stride, const float* cos_sin, const int64_t* positions,
                            const int64_t* slots, long num_tokens) {
  auto run = [&]<class T>(T) {
    quire::Append<T>{*plan, static_cast<T*>(cache), static_cast<T*>(q), static_cast<T*>(k),
                     static_cast<const T*>(v), q_stride, k_stride, v_stride, cos_sin, positions, slots, num_tokens}.run(*pool);
  };
  is_bf16 ? run(bf16{}) : run(float{});
}
}
