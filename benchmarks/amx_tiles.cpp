// Times products on AMX by the number of tiles in use, out of the first-level cache, on one core.
//
//   g++ -std=c++20 -O2 -march=sapphirerapids benchmarks/amx_tiles.cpp kernels/csrc/common/permission.cpp -o amx_tiles
//   ./amx_tiles
//
// Every way does two products for three loads: one tile of rows, two of columns. They differ in nothing but how many
// further tiles were loaded beforehand and are never used; in the last way these are zeroed again. Everything is done
// with zeros and with random numbers, which take the processor more power. GFLOP/s, median and fastest of a hundred
// tries of a millisecond: the core's other hardware thread may belong to somebody else.

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "../kernels/csrc/common/amx.h"
#include "../kernels/csrc/common/api.h"

namespace {

using Clock = std::chrono::steady_clock;
using quire::bf16;

constexpr int kSteps = 20'000, kTries = 101;
constexpr double kOperations = 2.0 * 2 * 16 * 16 * 32;  // of a step: two products
constexpr long kBytes = 64;                             // of a row of a tile

alignas(64) bf16 rows[512], columns[2][512];

void randomize() {
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  for (bf16* tile : {rows, columns[0], columns[1]})
    for (int i = 0; i < 512; ++i) tile[i] = quire::narrow<bf16>(normal(random));
}

double timed(const auto& step) {
  const auto began = Clock::now();
  for (int i = 0; i < kSteps; ++i) step();
  return kSteps * kOperations / std::chrono::duration<double>(Clock::now() - began).count() / 1e9;
}

void products() {
  _tile_dpbf16ps(0, 2, 3);
  _tile_dpbf16ps(1, 2, 3);
}

void loads_and_products() {
  _tile_loadd(2, rows, kBytes);
  _tile_loadd(3, columns[0], kBytes);
  _tile_dpbf16ps(0, 2, 3);
  _tile_loadd(3, columns[1], kBytes);
  _tile_dpbf16ps(1, 2, 3);
}

void occupy(int further) {
  if (further > 0) _tile_loadd(4, rows, kBytes);
  if (further > 1) _tile_loadd(5, rows, kBytes);
  if (further > 2) _tile_loadd(6, rows, kBytes);
  if (further > 3) _tile_loadd(7, rows, kBytes);
}

void vacate() {
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

struct Way {
  const char* name;
  int further;
  bool is_vacated, has_loads;
  std::vector<double> rates;

  void run() {
    const quire::AmxShape whole{quire::kAmxRows, kBytes};
    const quire::AmxTiles tiles({whole, whole, whole, whole, whole, whole, whole, whole});
    loads_and_products();
    occupy(further);
    if (is_vacated) vacate();
    rates.push_back(has_loads ? timed(loads_and_products) : timed(products));
  }
};

void measure(const char* what) {
  std::puts(what);
  std::array<Way, 7> ways{{{"products alone", 0, false, false, {}},
                           {"4 tiles in use", 0, false, true, {}},
                           {"5 tiles in use", 1, false, true, {}},
                           {"6 tiles in use", 2, false, true, {}},
                           {"7 tiles in use", 3, false, true, {}},
                           {"8 tiles in use", 4, false, true, {}},
                           {"8, of which 4 zeroed again", 4, true, true, {}}}};
  for (int i = 0; i < kTries; ++i)
    for (Way& way : ways) way.run();
  for (Way& way : ways) {
    std::sort(way.rates.begin(), way.rates.end());
    std::printf("%-28s median %5.0f   fastest %5.0f\n", way.name, way.rates[kTries / 2], way.rates.back());
  }
}

}  // namespace

int main() {
  if (!quire_is_permitted()) return std::puts("this system does not permit AMX"), 1;
  measure("zeros");
  randomize();
  measure("random numbers");
}
