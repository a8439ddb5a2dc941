// What one step's attention does, planned once for all layers.
//
// The cache lays blocks out as panels of matrix products. Of one block:
//
//   keys     [kv_head][token / 16][dim / kPack][16][kPack]        B of   scores = queries * keys^T
//   values   [kv_head][token / kPack][dim][kPack]                 B of   output = weights * values
//
// A latent cache has keys only; their first numbers are the values. Panels of these are made of those of keys as they
// are read, once for all queries of an item (attention_latent.h).
//
// The keys of a row are cut at multiples of kSplit positions. A split has its own softmax (maximum, sum, weighted
// values), and splits are merged in order of position (Milakov and Gimelshein, 2018; Dao et al., 2022). Cuts and order
// do not depend on the batch, on the chunk of a query, or on the number of threads. So a token's result is always the
// same, to the bit.
//
//   parts     splits that are computed apart: those that several generating rows share, all rows' queries at once
//             (a common prefix is then read once for all), or every split where there are few queries for the threads
//   items     all queries, once: what their parts came to, then the splits that are left, then the result
#pragma once

#include <cstdint>
#include <vector>

#include "common/tile.h"

namespace quire {

inline constexpr long kSplit = 256;
inline constexpr long kKeys = 16;      // keys of one panel
inline constexpr long kMostRows = 48;  // rows (queries times heads of a group) of one item
inline constexpr int kNoWindow = 0;
inline constexpr float kNoCap = 0;
inline constexpr int kNotLatent = 0;

struct Shape {
  int num_qo_heads, num_kv_heads, head_dim, block_size, window;
  int latent_dim;  // of a value that is a part of its key; kNotLatent: values are in the cache
  float divisor;   // of a query's product with a key, which is then a score
  float soft_cap;  // of scores; kNoCap: none

  bool is_latent() const { return latent_dim != kNotLatent; }
  int value_dim() const { return is_latent() ? latent_dim : head_dim; }
  int groups() const { return num_qo_heads / num_kv_heads; }
  long side() const { return static_cast<long>(block_size) * num_kv_heads * head_dim; }
  long block() const { return is_latent() ? side() : 2 * side(); }
  long head() const { return static_cast<long>(block_size) * head_dim; }
  long tile() const { return kMostRows > groups() ? kMostRows / groups() : 1; }  // queries of one item
};

// Some queries for one KV head, and the splits that one thread computes in one go.
struct Item {
  int row, kv_head;         // whose blocks are read; of several that share them, any
  long query, num_queries;  // in Plan::queries
  long split_begin, split_end;
  long part, num_parts;  // in Plan::parts_of: what was computed of the splits before
  long state;            // of a part: where in Plan::states its result goes
};

// The state of some rows of a part.
struct PartOf {
  long state, num_rows;  // of the whole part
  long first_row;        // of the item's in it
};

struct Plan {
  Shape shape;
  std::vector<int32_t> kv_indices;
  std::vector<int32_t> starts;     // of each row in kv_indices
  std::vector<int32_t> queries;    // tokens of the step: all in order, then those that share a part
  std::vector<int32_t> positions;  // of each token
  std::vector<Item> parts, items;
  std::vector<PartOf> parts_of;
  std::vector<float> states;

  long rows_of(const Item& item) const { return item.num_queries * shape.groups(); }
  // Positions that a query sees: from, up to.
  long end_of(long query) const { return positions[queries[query]] + 1; }
  long begin_of(long query) const {
    const long end = end_of(query);
    return shape.window == kNoWindow || end < shape.window ? 0 : end - shape.window;
  }
};

// Running softmax of some rows: output is not yet divided by the sum.
struct State {
  float* largest;  // [rows]
  float* sum;      // [rows]
  float* output;   // [rows][dim], of values

  static long size(long rows, long dim) { return rows * (dim + 2); }
  State(float* memory, long rows) : largest(memory), sum(memory + rows), output(memory + 2 * rows) {}
  State from(long row, long dim) const {
    State rest = *this;
    rest.largest += row, rest.sum += row, rest.output += row * dim;
    return rest;
  }
};

}  // namespace quire
