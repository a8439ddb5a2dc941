// The jobs of a pool of threads, one after the other, without locks.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "lines.h"

namespace quire {

// What the threads of a pool know of each other. But for the current job, a word is the number of a job and behind it
// that of a task, plus one, or of tasks.
class Jobs {
 public:
  explicit Jobs(int num_threads) : claimed_(num_threads), computing_(num_threads), done_(num_threads) {}

  int num_threads() const { return static_cast<int>(claimed_.size()); }
  uint64_t current() const { return current_.value.load(std::memory_order_acquire); }
  bool is_over(uint64_t job) const { return current() > job; }

  // The next task of a thread's range [begin, end), or kNone.
  long claim(uint64_t job, int range, long begin, long end);
  // Says that a thread computes a task; until somebody takes it, others may as well.
  void announce(uint64_t job, int thread, long task);
  // The task that a thread has announced and no thread has taken, or kNone.
  long announced(uint64_t job, int thread) const;
  // The right to publish what a thread has announced; given once.
  bool take(uint64_t job, int thread, long task);
  // A thread has done one more task.
  void finish(uint64_t job, int thread);
  // Whether all tasks are done; `is_over` from then on.
  bool is_finished(uint64_t job, long num_tasks);

  static constexpr long kNone = -1;
  static constexpr long kMostTasks = (1 << 20) - 2;

 private:
  struct alignas(kLine) Word {
    std::atomic<uint64_t> value{0};
  };

  Word current_{1};
  std::vector<Word> claimed_;    // of each thread's range
  std::vector<Word> computing_;  // by each thread
  std::vector<Word> done_;       // by each thread
};

}  // namespace quire
