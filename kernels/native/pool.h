// Threads that help the caller. Tasks are claimed, not dealt: the caller works too, and never waits for a helper
// that sleeps or has lost its core, only for tasks that are being computed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace quire {

class Pool {
 public:
  // `num_threads` counts the caller.
  explicit Pool(int num_threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int num_threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls body(i) for i in [0, num_tasks). One caller at a time.
  template <class Body>
  void run(long num_tasks, const Body& body) {
    if (num_tasks <= 1 || helpers_.empty()) {
      for (long i = 0; i < num_tasks; ++i) body(i);
      return;
    }
    run_shared(static_cast<uint32_t>(num_tasks), &body,
               [](const void* context, uint32_t i) { (*static_cast<const Body*>(context))(i); });
  }

  // As `run`, but every thread has a range of its own and goes through it in order, which memory rewards; whoever is
  // through helps the next one.
  template <class Body>
  void run_in_order(long num_tasks, const Body& body) {
    const long ranges = num_threads();
    for (long r = 0; r < ranges; ++r) next_[r].task = num_tasks * r / ranges;
    run(num_tasks > 1 ? ranges : num_tasks, [&](long self) {
      for (long i = 0; i < ranges; ++i) {
        const long r = (self + i) % ranges, end = num_tasks * (r + 1) / ranges;
        for (long task; (task = next_[r].task.fetch_add(1, std::memory_order_relaxed)) < end;) body(task);
      }
    });
  }

  // Calls body(begin, end) over [0, num_items), in pieces that are worth handing to another thread.
  // `cost` is that of one item in units of roughly a nanosecond.
  template <class Body>
  void run_range(long num_items, double cost, const Body& body) {
    constexpr double kWorthwhile = 5'000;
    long pieces = static_cast<long>(num_items * cost / kWorthwhile);
    pieces = pieces < 1 ? 1 : pieces > 4L * num_threads() ? 4L * num_threads() : pieces;
    if (pieces > num_items) pieces = num_items;
    run(pieces, [&](long i) { body(num_items * i / pieces, num_items * (i + 1) / pieces); });
  }

 private:
  using Call = void (*)(const void*, uint32_t);
  struct alignas(64) Cursor {  // a cache line each
    std::atomic<long> task{0};
  };

  void run_shared(uint32_t num_tasks, const void* context, Call call);
  bool work_once();
  void help();
  bool wait_for_job(uint32_t last_epoch);

  // The epoch in the upper half, the next task in the lower: a claim succeeds only in the epoch it was read in.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<uint32_t> num_tasks_{0};
  std::atomic<const void*> context_{nullptr};
  std::atomic<Call> call_{nullptr};
  std::atomic<uint32_t> num_done_{0};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<int> num_asleep_{0};
  std::atomic<bool> stopping_{false};
  std::vector<Cursor> next_;
  std::vector<std::thread> helpers_;
};

}  // namespace quire
