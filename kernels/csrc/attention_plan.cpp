// Who computes what of a step's attention.

#include <algorithm>
#include <numeric>
#include <span>

#include "attention.h"
#include "common/api.h"

namespace quire {
namespace {

constexpr long kFewTilesPerThread = 8;

class Planner {
 public:
  Planner(Plan& plan, int num_threads, int num_rows, const int32_t* qo_indptr, const int32_t* kv_lens)
      : plan_(plan), num_rows_(num_rows), qo_indptr_(qo_indptr), kv_lens_(kv_lens), shared_(num_rows) {
    plan.parts.clear(), plan.items.clear(), plan.parts_of.clear();
    place_tokens();
    long num_tiles = 0;
    for (int r = 0; r < num_rows; ++r) {
      num_tiles += (count(r) + plan.shape.tile() - 1) / plan.shape.tile() * plan.shape.num_kv_heads;
    }
    if (num_threads > 1 && num_tiles < kFewTilesPerThread * num_threads) {
      every_split_apart_ = true;
    } else if (plan.shape.window == kNoWindow) {
      share_prefixes();
    }
    for (int r = 0; r < num_rows; ++r) add_row(r);
    if (num_floats_ > static_cast<long>(plan.states.size())) plan.states.resize(num_floats_);
  }

  // How often a split of a KV head is gone through, for however many queries at once.
  long num_passes() const {
    long passes = static_cast<long>(plan_.parts.size());
    for (const Item& item : plan_.items) passes += item.split_end - item.split_begin;
    return passes;
  }

 private:
  long count(int row) const { return qo_indptr_[row + 1] - qo_indptr_[row]; }

  void place_tokens() {
    plan_.queries.resize(qo_indptr_[num_rows_]);
    plan_.positions.resize(qo_indptr_[num_rows_]);
    std::iota(plan_.queries.begin(), plan_.queries.end(), 0);
    for (int r = 0; r < num_rows_; ++r) {
      std::iota(plan_.positions.begin() + qo_indptr_[r], plan_.positions.begin() + qo_indptr_[r + 1],
                static_cast<int32_t>(kv_lens_[r] - count(r)));
    }
  }

  // Appends a part and returns where its state goes.
  long add_part(int row, int head, long query, long num_queries, long split) {
    const long state = num_floats_;
    num_floats_ += State::size(num_queries * plan_.shape.groups(), plan_.shape.value_dim());
    plan_.parts.push_back({row, head, query, num_queries, split, split + 1, 0, 0, state});
    return state;
  }

  // Blocks of a split; none where the row ends within it.
  std::span<const int32_t> blocks_of(int row, long split) const {
    const long size = kSplit / plan_.shape.block_size;
    if ((split + 1) * kSplit > kv_lens_[row]) return {};
    return {plan_.kv_indices.data() + plan_.starts[row] + split * size, static_cast<size_t>(size)};
  }

  // Generating rows in the order of their blocks: those with a common prefix stand together.
  void share_prefixes() {
    if (kSplit % plan_.shape.block_size) return;
    std::vector<int> rows;
    for (int r = 0; r < num_rows_; ++r)
      if (count(r) == 1 && kv_lens_[r] >= kSplit) rows.push_back(r);
    auto blocks = [&](int row) {
      return std::span(plan_.kv_indices).subspan(plan_.starts[row], kv_lens_[row] / plan_.shape.block_size);
    };
    std::ranges::sort(rows, [&](int a, int b) { return std::ranges::lexicographical_compare(blocks(a), blocks(b)); });
    share(rows, 0);
  }

  // Plans shared parts of rows whose splits before `split` are the same.
  void share(std::span<const int> rows, long split) {
    while (rows.size() > 1) {
      const auto first = blocks_of(rows[0], split);
      size_t same = 1;
      while (same < rows.size() && std::ranges::equal(first, blocks_of(rows[same], split))) ++same;
      if (same > 1 && !first.empty()) {
        for (size_t i = 0; i < same; i += plan_.shape.tile()) {
          share_tile(rows.subspan(i, std::min<size_t>(plan_.shape.tile(), same - i)), split);
        }
        share(rows.first(same), split + 1);
      }
      rows = rows.subspan(same);
    }
  }

  void share_tile(std::span<const int> rows, long split) {
    const long query = static_cast<long>(plan_.queries.size()), size = static_cast<long>(rows.size());
    const long groups = plan_.shape.groups();
    for (int row : rows) plan_.queries.push_back(qo_indptr_[row]);
    for (int head = 0; head < plan_.shape.num_kv_heads; ++head) {
      const long state = add_part(rows[0], head, query, size, split);
      for (long i = 0; i < size; ++i) shared_[rows[i]].push_back({state, size * groups, i * groups});
    }
  }

  void add_row(int row) {
    for (int head = 0; head < plan_.shape.num_kv_heads; ++head) {
      for (long query = qo_indptr_[row]; query < qo_indptr_[row + 1]; query += plan_.shape.tile()) {
        add_item(row, head, query, std::min<long>(plan_.shape.tile(), qo_indptr_[row + 1] - query));
      }
    }
  }

  void add_item(int row, int head, long query, long num_queries) {
    const long first_part = static_cast<long>(plan_.parts_of.size());
    const long end = (plan_.end_of(query + num_queries - 1) + kSplit - 1) / kSplit;
    long split = plan_.begin_of(query) / kSplit;
    for (size_t i = head; i < shared_[row].size(); i += plan_.shape.num_kv_heads, ++split) {
      plan_.parts_of.push_back(shared_[row][i]);
    }
    if (every_split_apart_ && end - split > 1) {
      for (; split < end; ++split) {
        const long state = add_part(row, head, query, num_queries, split);
        plan_.parts_of.push_back({state, num_queries * plan_.shape.groups(), 0});
      }
    }
    const long num_parts = static_cast<long>(plan_.parts_of.size()) - first_part;
    plan_.items.push_back({row, head, query, num_queries, split, end, first_part, num_parts, -1});
  }

  Plan& plan_;
  const int num_rows_;
  const int32_t *qo_indptr_, *kv_lens_;
  std::vector<std::vector<PartOf>> shared_;  // of each row: by split, then by head
  bool every_split_apart_ = false;
  long num_floats_ = 0;
};

}  // namespace
}  // namespace quire

extern "C" {

quire::Plan* quire_attention_new(int num_qo_heads, int num_kv_heads, int head_dim, int block_size, int window,
                                 int latent_dim, float divisor, float soft_cap) {
  auto* plan = new quire::Plan{};
  plan->shape = {num_qo_heads, num_kv_heads, head_dim, block_size, window, latent_dim, divisor, soft_cap};
  return plan;
}

void quire_attention_delete(quire::Plan* plan) { delete plan; }

long quire_attention_plan(quire::Plan* plan, int num_threads, int num_rows, const int32_t* qo_indptr,
                          const int32_t* kv_indptr, const int32_t* kv_indices, const int32_t* kv_lens) {
  plan->starts.assign(kv_indptr, kv_indptr + num_rows);
  plan->kv_indices.assign(kv_indices, kv_indices + kv_indptr[num_rows]);
  return quire::Planner(*plan, num_threads, num_rows, qo_indptr, kv_lens).num_passes();
}
}
