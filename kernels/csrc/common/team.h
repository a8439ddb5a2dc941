// A function that all threads of a pool execute, each for itself. `run` shares the tasks of one job among them, and no
// thread continues before the job is over. A late thread skips jobs that are over.
//
// A thread that loses its core holds up the others as little as can be. Tasks are claimed, not dealt. Where a task has
// two parts and its thread does not come back, an idle thread computes it again. `compute` leaves results where only
// its own thread looks; the first thread to finish may `publish` them. What the other one has computed is dropped. It
// may have read numbers that later jobs were changing. So these must not decide where `compute` reads or how often, and
// memory must stay until `together` ends. `publish` writes nothing that another task of its job reads. A thread is
// waited for where it is lost in a task of one part, or while it publishes.
#pragma once

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstdint>

#include "jobs.h"

namespace quire {

// One thread's way through the jobs.
class Team {
 public:
  Team(Jobs& jobs, int self, uint64_t first_job) : jobs_(jobs), self_(self), job_(first_job) {}

  int num_threads() const { return jobs_.num_threads(); }

  // Calls body(i) for i in [0, num_tasks), once each. Every thread has a range of its own and goes through it in order,
  // which memory rewards; a thread that has finished helps the next one.
  template <class Body>
  void run(long num_tasks, const Body& body) {
    share<false>(num_tasks, body, [](long) {});
  }

  // Calls compute(i), perhaps more than once, and after one of the calls publish(i) on the same thread.
  template <class Compute, class Publish>
  void run(long num_tasks, const Compute& compute, const Publish& publish) {
    share<true>(num_tasks, compute, publish);
  }

  // Calls body(begin, end) over [0, num_items), in pieces that are worth handing to another thread.
  // `cost` is that of one item in units of roughly a nanosecond.
  template <class Body>
  void run_range(long num_items, double cost, const Body& body) {
    const long pieces = pieces_of(num_items, cost, num_threads());
    run(pieces, [&](long i) { body(num_items * i / pieces, num_items * (i + 1) / pieces); });
  }

  static long pieces_of(long num_items, double cost, int num_threads) {
    constexpr double kWorthwhile = 5'000;
    return std::min(num_items, std::clamp(static_cast<long>(num_items * cost / kWorthwhile), 1L, 4L * num_threads));
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::duration kPatience = std::chrono::microseconds(20);
  static constexpr Clock::duration kMostPatience = std::chrono::microseconds(200);

  template <bool kAgain, class Compute, class Publish>
  void share(long num_tasks, const Compute& compute, const Publish& publish) {
    assert(num_tasks <= Jobs::kMostTasks);
    if (num_tasks == 0) return;
    const uint64_t job = job_++;
    if (jobs_.is_over(job)) return;
    const auto began = Clock::now();
    long count = 0;
    int ranges = 0;
    auto claim = [&] {
      for (; ranges < num_threads(); ++ranges) {
        const int range = (self_ + ranges) % num_threads();
        const long begin = first_of(range, num_tasks), end = first_of(range + 1, num_tasks);
        if (const long task = jobs_.claim(job, range, begin, end); task != Jobs::kNone) return task;
      }
      return Jobs::kNone;
    };
    for (long task = claim(), next; task != Jobs::kNone; task = next, ++count) {
      if (kAgain) jobs_.announce(job, self_, task);
      compute(task);
      const bool is_mine = !kAgain || jobs_.take(job, self_, task);
      // Claimed before: behind results a claim would wait until they have reached the cache.
      next = claim();
      if (is_mine) {
        publish(task);
        jobs_.finish(job, self_);
      }
    }
    if (jobs_.is_finished(job, num_tasks)) return;
    // Others are about to be through, unless one takes longer than a task took here.
    const auto patience = std::min(kPatience + (Clock::now() - began) / std::max(count, 1L), kMostPatience);
    while (!wait(job, num_tasks, patience)) {
      for (int i = 1; kAgain && i < num_threads(); ++i) {
        const int thread = (self_ + i) % num_threads();
        const long task = jobs_.announced(job, thread);
        if (task == Jobs::kNone) continue;
        compute(task);
        if (!jobs_.take(job, thread, task)) continue;
        publish(task);
        jobs_.finish(job, self_);
      }
    }
  }

  long first_of(int range, long num_tasks) const { return (num_tasks * range + num_threads() - 1) / num_threads(); }

  // Until the job is over. If that takes longer: lets others have this core, which may be what they wait for; false.
  bool wait(uint64_t job, long num_tasks, Clock::duration patience) const;

  Jobs& jobs_;
  const int self_;
  uint64_t job_;  // the next
};

}  // namespace quire
