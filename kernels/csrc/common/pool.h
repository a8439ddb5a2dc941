// Threads that help the caller. It never waits for a helper that sleeps, nor to wake one; only for those that are
// with it, at the end.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "team.h"

namespace quire {

class Pool {
 public:
  // `num_threads` counts the caller.
  explicit Pool(int num_threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int num_threads() const { return jobs_.num_threads(); }

  // Calls body(team) in the caller and in every helper that comes in time; returns when none is in it any more.
  // One caller at a time.
  template <class Body>
  void together(const Body& body) {
    call_together(&body, [](const void* context, Team& team) { (*static_cast<const Body*>(context))(team); });
  }

  // One job, as the team's.
  template <class Body>
  void run(long num_tasks, const Body& body) {
    if (num_tasks == 1) return body(0);
    together([&](Team& team) { team.run(num_tasks, body); });
  }

  template <class Body>
  void run_range(long num_items, double cost, const Body& body) {
    if (Team::pieces_of(num_items, cost, num_threads()) == 1) return body(0, num_items);
    together([&](Team& team) { team.run_range(num_items, cost, body); });
  }

 private:
  using Call = void (*)(const void*, Team&);

  void call_together(const void* context, Call call);
  void wake();
  void help(int self);
  bool wait_for_call(uint64_t last);
  bool enter(uint64_t& last);

  Jobs jobs_;
  // Number of the call, whether it is open, and how many helpers are in it.
  std::atomic<uint64_t> door_{0};
  // Function and context of the call that is open.
  const void* context_ = nullptr;
  Call call_ = nullptr;
  uint64_t first_job_ = 0;

  // Number that helpers sleep on.
  std::atomic<int> num_calls_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> helpers_;
};

}  // namespace quire
