// Some rows times panels of weights on AMX: a tile of rows by as much of a panel as stays in the first-level cache.
#pragma once

#if defined(__AMX_BF16__)

#include "../native/amx.h"
#include "../native/lines.h"
#include "native.h"

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
    sums.resize((chunks_ == 1 ? 1 : blocks_) * kSums);
    sums_ = sums.data();
  }

  // `b` is the panel, or the same in the rows' type; `next` will probably be multiplied by next. The last tile of rows
  // reaches back to some that are there already: they come out the same.
  template <class B>
  void multiply(long panel, const B* b, const W* next) {
    const Finish<Out> finish = of_.finish_of(panel);
    for (long chunk = 0; chunk < chunks_; ++chunk) {
      const long from = steps() * chunk / chunks_, count = steps() * (chunk + 1) / chunks_ - from;
      for (long block = 0; block < blocks_; ++block) {
        const long row = std::min(begin_ + block * kAmxRows, end_ - height_);
        float* sums = sums_ + (chunks_ == 1 ? 0 : block * kSums);
        amx_tile(of_.x + row * depth() + from * kAmxDepth, depth(), count, columns(b, from), sums, chunk == 0,
                 ahead(panel, next, from * blocks_ + block * count));
        if (chunk == chunks_ - 1) finish(sums, height_, of_.result_at(row, panel), of_.matrix.outputs);
      }
    }
  }

 private:
  static constexpr long kStepsOfChunk = 18;  // 36 KiB of a panel; rows pass through the rest of the cache
  static constexpr long kStep = kPanel * kAmxDepth, kSums = kPanel * kAmxRows;
  static constexpr long kStepBytes = kStep * static_cast<long>(sizeof(W)), kLine = 64;

  long depth() const { return of_.matrix.depth; }
  long steps() const { return depth() / kAmxDepth; }

  static auto columns(const bf16* b, long from) {
    return [b = b + from * kStep](long step) { return b + step * kStep; };
  }

  auto columns(const int8_t* b, long from) {
    return [this, b = b + from * kStep](long step) {
      widen_panel(b + step * kStep, kStep, wide_[step % 2]);
      return static_cast<const bf16*>(wide_[step % 2]);
    };
  }

  // One block of rows waits for memory all the time, so it looks a little ahead, pair of k by pair of k. Of several,
  // each fetches its share of the next panel's lines, `steps_done` steps of all blocks being done.
  auto ahead(long panel, const W* next, long steps_done) const {
    const bool is_alone = blocks_ == 1;
    const long fetches = is_alone ? kAmxDepth / 2 : (kStepBytes / kLine + blocks_ - 1) / blocks_;
    const char* from = reinterpret_cast<const char*>(is_alone ? of_.panel_at(panel) : next);
    Ahead fetch{from + (is_alone ? kLookAhead : steps_done * kStepBytes / blocks_), kStepBytes / (blocks_ * fetches)};
    return [fetch, fetches]() mutable {
      for (long i = 0; i < fetches; ++i) fetch();
    };
  }

  const Operands<bf16, W, Out>& of_;
  const long begin_, end_, height_, blocks_, chunks_;
  const AmxTiles tiles_;
  float* sums_;
  alignas(64) bf16 wide_[2][kStep];
};

}  // namespace quire

#endif
