// Some rows times panels of weights on AMX: a tile of rows by as much of a panel as stays in the first-level cache.
#pragma once

#if defined(__AMX_BF16__)

#include "common/amx.h"
#include "common/lines.h"
#include "linear.h"

namespace quire {

template <class W, class Out>
class AmxProduct {
 public:
  AmxProduct(const Operands<bf16, W, Out>& operands, long row_begin, long row_end)
      : of_(operands),
        begin_(row_begin),
        end_(row_end),
        height_(std::min(kAmxRows, row_end - row_begin)),
        blocks_((row_end - row_begin + kAmxRows - 1) / kAmxRows),
        chunks_(blocks_ == 1 ? 1 : (steps() + kStepsOfChunk - 1) / kStepsOfChunk),
        tiles_(linear_shapes(height_)) {
    thread_local Lines<float> sums;
    const long size = (chunks_ == 1 ? 2 : blocks_) * kSums;
    sums.resize(operands.adapted ? 2 * size : size);
    sums_ = sums.data(), added_ = sums_ + size;
  }

  ~AmxProduct() { beside_.tile.finish(); }

  // `b` is the panel, or the same in the rows' type; `next` will probably be multiplied by next. The last tile of rows
  // reaches back to some that are there already: they come out the same.
  template <class B>
  void multiply(long panel, const B* b, const W* next) {
    fetch_beside(panel, next);
    for (long chunk = 0; chunk < chunks_; ++chunk) {
      const long from = steps() * chunk / chunks_, count = steps() * (chunk + 1) / chunks_ - from;
      for (long block = 0; block < blocks_; ++block) {
        const long row = std::min(begin_ + block * kAmxRows, end_ - height_);
        const long place = (chunks_ == 1 ? (panel * blocks_ + block) % 2 : block) * kSums;
        float* sums = sums_ + place;
        amx_tile(of_.row_at(row) + from * kAmxDepth, of_.x_stride, count, columns(b, from), sums, chunk == 0, beside_);
        beside_.tile.finish();
        if (chunk + 1 == chunks_) {
          const float* added = of_.add_to(added_ + place, panel, row, height_);
          beside_.tile = {of_.finish_of(panel), sums, added, of_.result_at(row, panel), of_.y_stride, height_};
        }
      }
    }
  }

 private:
  static constexpr long kStepsOfChunk = 18;  // 36 KiB of a panel; rows pass through the rest of the cache
  static constexpr long kStep = kPanel * kAmxDepth, kSums = kPanel * kAmxRows;
  static constexpr long kStepBytes = kStep * static_cast<long>(sizeof(W)) / (kIsInt4<W> ? 2 : 1);

  // A tile whose sums are there, and how many of its rows are to be finished.
  struct Tile {
    Finish<Out> by;
    const float *sums, *added;
    Out* y;
    long y_stride, rows;

    void finish_row() {
      by.row(sums, added, y);
      if (added) added += kPanel;
      sums += kPanel, y += y_stride, --rows;
    }

    void finish() {
      while (rows > 0) finish_row();
    }
  };

  // What a step of products has time for: lines that are needed soon, and a row of the tile before.
  struct Beside {
    Ahead ahead;
    long lines;  // a step
    Tile tile;

    void operator()() {
      for (long i = 0; i < lines; ++i) ahead();
      if (tile.rows > 0) tile.finish_row();
    }
  };

  long steps() const { return of_.matrix.depth / kAmxDepth; }

  // One block of rows waits for memory all the time, so it looks a little ahead, pair of k by pair of k. Several have
  // fetched the next panel when they are through with this one.
  void fetch_beside(long panel, const W* next) {
    const bool is_alone = blocks_ == 1 && !kIsInt4<W>;
    const char* from = is_alone ? reinterpret_cast<const char*>(of_.panel_at(panel)) + kLookAhead
                                : reinterpret_cast<const char*>(next);
    beside_.lines = is_alone ? kAmxDepth / 2 : (kStepBytes / kLine + blocks_ - 1) / blocks_;
    beside_.ahead = {from, kStepBytes / (blocks_ * beside_.lines)};
  }

  static auto columns(const bf16* b, long from) {
    return [b = b + from * kStep](long step) { return b + step * kStep; };
  }

  auto columns(const int8_t* b, long from) {
    return [this, b = b + from * kStep](long step) {
      widen_panel(b + step * kStep, kStep, wide_[step % 2]);
      return static_cast<const bf16*>(wide_[step % 2]);
    };
  }

  const Operands<bf16, W, Out>& of_;
  const long begin_, end_, height_, blocks_, chunks_;
  const AmxTiles tiles_;
  float *sums_, *added_;
  Beside beside_{};
  alignas(64) bf16 wide_[2][kStep];
};

}  // namespace quire

#endif
