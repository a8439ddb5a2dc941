// y = x W^T + b with W packed in panels of 32 columns, read front to back. At small batches memory is the bound. At
// large ones a tile of 12 rows keeps the multipliers busy while its panel stays in the second-level cache.
//
//   packed   [panel][k / kPack][32][kPack], zeros beyond the last column; kPack is that of the rows' type
//
// Where W is int4, a byte holds two k of a column, [panel][k / 2][32], and every group of k of a panel has 32 scales
// and zeros, [panel][group][32]: a panel is widened to (code - zero) * scale, rounded to the rows' type; of bf16
// without AMX, linear_int4.h multiplies by the codes.
//
// Where W is int8, y = (x W^T) * scale + b: the integers are widened to the rows' type, which is exact. Scale and bias
// reach to the end of the last panel. In a gated layer a panel is 16 columns of gates, then 16 of what they gate:
// y = silu(gate) * up or another such, in float32.

#include <algorithm>
#include <utility>

#include "common/api.h"
#include "common/pool.h"
#include "product.h"

namespace quire {
namespace {

template <class T, class W>
void pack(const W* weight, W* packed, long columns, long depth) {
  constexpr long kP = kPack<T>;
  for (long n = 0; n < num_panels(columns) * kPanel; ++n) {
    W* column = packed + n / kPanel * kPanel * depth + n % kPanel * kP;
    for (long k = 0; k < depth; ++k) column[k / kP * kPanel * kP + k % kP] = n < columns ? weight[n * depth + k] : W{};
  }
}

// Rows in as many parts as keep in the cache, panels in as many as keep all threads busy.
template <class T, class W, class Out>
void share(Team& team, const Product<T, W, Out>& product) {
  const Matrix& matrix = product.matrix;
  if (product.rows == 0) return;
  const long rows = product.rows, most = most_rows<T>(matrix.depth), panels = num_panels(matrix.columns);
  const long row_parts = (rows + most - 1) / most;
  const long panel_parts = std::clamp(kTasksPerThread * team.num_threads() / row_parts, 1L, panels);
  auto most_of = [](long count, long parts) { return (count + parts - 1) / parts; };
  const long results = most_of(rows, row_parts) * most_of(panels, panel_parts) * product.width();
  share_products<Out>(team, row_parts * panel_parts, results, [&](long task) {
    const long r = task / panel_parts, p = task % panel_parts;
    auto panel = [&](long i) { return panels * i / panel_parts; };
    using Part = typename Product<T, W, Out>::Part;
    return std::pair(product, Part{rows * r / row_parts, rows * (r + 1) / row_parts, panel(p), panel(p + 1),
                                   product.panel_at(panel((p + 1) % panel_parts))});
  });
}

template <class T, class Out>
void multiply(Team& team, const void* x, long x_stride, const Matrix& matrix, void* y, long y_stride, long rows,
              const AdapterRows* adapted) {
  const T* from = static_cast<const T*>(x);
  if (!matrix.adapters) adapted = nullptr;
  if (adapted) project_down(team, from, x_stride, matrix, rows, *adapted);
  auto run = [&]<class W>(W) {
    share(team, Product<T, W, Out>{{from, x_stride, matrix, static_cast<Out*>(y), y_stride, rows, adapted}});
  };
  matrix.group ? run(Int4{}) : matrix.scale ? run(int8_t{}) : run(T{});
}

}  // namespace

void linear(Team& team, int is_bf16, int out_is_bf16, const void* x, long x_stride, const Matrix& matrix, void* y,
            long y_stride, long rows, const AdapterRows* adapted) {
  auto* run = !is_bf16 ? &multiply<float, float> : out_is_bf16 ? &multiply<bf16, bf16> : &multiply<bf16, float>;
  run(team, x, x_stride, matrix, y, y_stride, rows, adapted);
}

}  // namespace quire

using quire::bf16;

extern "C" {

void quire_linear_pack(int is_bf16, int is_int8, const void* weight, void* packed, long columns, long depth) {
  auto run = [&]<class T, class W>(T, W) {
    quire::pack<T>(static_cast<const W*>(weight), static_cast<W*>(packed), columns, depth);
  };
  if (is_int8) {
    is_bf16 ? run(bf16{}, int8_t{}) : run(float{}, int8_t{});
  } else {
    is_bf16 ? run(bf16{}, bf16{}) : run(float{}, float{});
  }
}

void quire_linear(quire::Pool* pool, int is_bf16, int out_is_bf16, const void* x, long x_stride,
                  const quire::Matrix* matrix, void* y, long y_stride, long rows, const quire::AdapterRows* adapted) {
  pool->together([&](quire::Team& team) {
    quire::linear(team, is_bf16, out_is_bf16, x, x_stride, *matrix, y, y_stride, rows, adapted);
  });
}
}
