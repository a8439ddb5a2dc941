// A mixture of experts, as in kernels/experts.py. Rows of x are copied so that those of an expert lie together. Then
// two jobs go over the products of all experts that have rows, so that every thread has work whatever was chosen:
//
//   x [tokens] -> rows -> gated -> results   [tokens * top_k], by expert, then by token -> out [tokens]
//
// A token's results are added up in the order of its experts, so that they do not depend on the batch.

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "common/api.h"
#include "common/lines.h"
#include "common/pool.h"
#include "product.h"

namespace quire {
namespace {

// Reading a panel takes about as long as multiplying so many rows by it, more on AMX and less elsewhere.
constexpr long kRowsOfReading = 32;

// Where rows lie.
struct Grouping {
  std::vector<long> first;  // of each expert, and where the last one ends
  std::vector<long> place;  // of each (token, k)
  std::vector<long> token;  // at each place

  Grouping(const int64_t* expert_ids, long num_experts, long tokens, long top_k)
      : first(num_experts + 1), place(tokens * top_k), token(tokens * top_k) {
    for (long i = 0; i < tokens * top_k; ++i) ++first[expert_ids[i] + 1];
    for (long e = 0; e < num_experts; ++e) first[e + 1] += first[e];
    std::vector<long> next(first.begin(), first.end() - 1);
    for (long i = 0; i < tokens * top_k; ++i) {
      place[i] = next[expert_ids[i]]++;
      token[place[i]] = i / top_k;
    }
  }

  long rows_of(long expert) const { return first[expert + 1] - first[expert]; }
  long num_experts() const { return static_cast<long>(first.size()) - 1; }
};

struct Task {
  long expert, row_begin, row_end, panel_begin, panel_end;

  long results() const { return (row_end - row_begin) * (panel_end - panel_begin) * kPanel; }
};

// Products of all experts in tasks of about equal cost, as they lie in memory. All matrices have the same shape.
template <class T>
std::vector<Task> tasks_of(const Grouping& grouping, const Matrix& shape, int num_threads) {
  const long panels = num_panels(shape.columns), most = most_rows<T>(shape.depth);
  auto parts_of = [&](long rows) { return (rows + most - 1) / most; };
  long cost = 0;
  for (long e = 0; e < grouping.num_experts(); ++e) {
    const long rows = grouping.rows_of(e);
    cost += panels * (parts_of(rows) * kRowsOfReading + rows);
  }
  const long cost_of_task = std::max(1L, cost / (kTasksPerThread * num_threads));
  std::vector<Task> tasks;
  for (long e = 0; e < grouping.num_experts(); ++e) {
    const long rows = grouping.rows_of(e), row_parts = parts_of(rows);
    for (long r = 0; r < row_parts; ++r) {
      const long begin = rows * r / row_parts, end = rows * (r + 1) / row_parts;
      const long panel_parts = std::clamp(panels * (kRowsOfReading + end - begin) / cost_of_task, 1L, panels);
      for (long p = 0; p < panel_parts; ++p) {
        tasks.push_back({e, begin, end, panels * p / panel_parts, panels * (p + 1) / panel_parts});
      }
    }
  }
  return tasks;
}

// Products of rows with the matrices of their experts.
template <class T, class W, class Out>
struct GroupedProduct {
  const Grouping& grouping;
  const Matrix* matrices;  // of each expert
  const T* x;
  long x_stride;
  Out* y;
  long y_stride;
  std::vector<Task> tasks;

  void share(Team& team) const {
    long results = 0;
    for (const Task& task : tasks) results = std::max(results, task.results());
    share_products<Out>(team, static_cast<long>(tasks.size()), results, [this](long index) {
      const Task& task = tasks[index];
      const Task& next = tasks[std::min(index + 1, static_cast<long>(tasks.size()) - 1)];
      using Part = typename Product<T, W, Out>::Part;
      return std::pair(product_of(task.expert), Part{task.row_begin, task.row_end, task.panel_begin, task.panel_end,
                                                     product_of(next.expert).panel_at(next.panel_begin)});
    });
  }

 private:
  Product<T, W, Out> product_of(long expert) const {
    const long first = grouping.first[expert];
    return {
        {x + first * x_stride, x_stride, matrices[expert], y + first * y_stride, y_stride, grouping.rows_of(expert)}};
  }
};

// Rows begin with a cache line, an odd number of lines apart, or the lines of a column would meet in few sets.
template <class T>
long stride_of(long columns) {
  const long bytes = columns * static_cast<long>(sizeof(T));
  return ((bytes + kLine - 1) / kLine | 1) * kLine / static_cast<long>(sizeof(T));
}

// Memory of the calling thread that is kept for the next call.
template <class T, int kWhich>
T* room(long size) {
  thread_local Lines<T> lines;
  if (static_cast<long>(lines.size()) < size) lines.resize(size);
  return lines.data();
}

template <class T>
void add_up(const float* results, long stride, const long* places, const float* weights, long top_k, T* out,
            long hidden) {
  long d = 0;
  for (; d + kWidth <= hidden; d += kWidth) {
    Vec total = {};
    for (long k = 0; k < top_k; ++k) total += weights[k] * load(results + places[k] * stride + d);
    store(out + d, total);
  }
  for (; d < hidden; ++d) {
    float total = 0;
    for (long k = 0; k < top_k; ++k) total += weights[k] * results[places[k] * stride + d];
    out[d] = narrow<T>(total);
  }
}

template <class T, class W>
void experts(Pool& pool, const T* x, const Matrix* gate_up, const Matrix* down, long num_experts,
             const int64_t* expert_ids, const float* weights, long tokens, long top_k, T* out) {
  const Grouping grouping(expert_ids, num_experts, tokens, top_k);
  const long hidden = gate_up->depth, size = gate_up->outputs, num_rows = tokens * top_k;
  const long row_stride = stride_of<T>(hidden), gated_stride = stride_of<T>(size);
  const long result_stride = stride_of<float>(hidden);
  T* rows = room<T, 0>(num_rows * row_stride);
  T* gated = room<T, 1>(num_rows * gated_stride);
  float* results = room<float, 2>(num_rows * result_stride);
  const int threads = pool.num_threads();
  const GroupedProduct<T, W, T> first{
      grouping, gate_up, rows, row_stride, gated, gated_stride, tasks_of<T>(grouping, *gate_up, threads)};
  const GroupedProduct<T, W, float> second{
      grouping, down, gated, gated_stride, results, result_stride, tasks_of<T>(grouping, *down, threads)};
  pool.together([&](Team& team) {
    team.run_range(num_rows, 0.1 * static_cast<double>(hidden), [&](long begin, long end) {
      for (long i = begin; i < end; ++i) {
        std::memcpy(rows + i * row_stride, x + grouping.token[i] * hidden, hidden * sizeof(T));
      }
    });
    first.share(team);
    second.share(team);
    team.run_range(tokens, 0.1 * static_cast<double>(hidden * top_k), [&](long begin, long end) {
      for (long t = begin; t < end; ++t) {
        add_up(results, result_stride, &grouping.place[t * top_k], weights + t * top_k, top_k, out + t * hidden,
               hidden);
      }
    });
  });
}

}  // namespace
}  // namespace quire

// `gate_up` and `down` are those of each expert; x and out are dense.
extern "C" void quire_experts(quire::Pool* pool, int is_bf16, const void* x, const quire::Matrix* gate_up,
                              const quire::Matrix* down, long num_experts, const int64_t* expert_ids,
                              const float* weights, long tokens, long top_k, void* out) {
  auto run = [&]<class T, class W>(T, W) {
    quire::experts<T, W>(*pool, static_cast<const T*>(x), gate_up, down, num_experts, expert_ids, weights, tokens,
                         top_k, static_cast<T*>(out));
  };
  if (gate_up->group) {
    is_bf16 ? run(quire::bf16{}, quire::Int4{}) : run(float{}, quire::Int4{});
  } else if (gate_up->scale) {
    is_bf16 ? run(quire::bf16{}, int8_t{}) : run(float{}, int8_t{});
  } else {
    is_bf16 ? run(quire::bf16{}, quire::bf16{}) : run(float{}, float{});
  }
}
