// What a team promises, on a pool of four threads; ends with 0, or says what was broken.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "common/pool.h"

using quire::Pool;
using quire::Team;

namespace {

void check(bool holds, const char* promise) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", promise);
  std::exit(1);
}

// The first thread that computes the task `kLost` does not come back before the job after it is over.
void others_go_on_without_a_thread(Pool& pool) {
  constexpr long kTasks = 7, kLost = 3;
  std::vector<std::atomic<int>> computed(kTasks), published(kTasks), next(kTasks);
  std::atomic<bool> is_lost{false}, may_return{false};
  pool.together([&](Team& team) {
    team.run(
        kTasks,
        [&](long task) {
          ++computed[task];
          if (task != kLost || is_lost.exchange(true)) return;
          while (!may_return) std::this_thread::yield();
        },
        [&](long task) { ++published[task]; });
    team.run(kTasks, [&](long task) { ++next[task]; });
    team.run(1, [&](long) { may_return = true; });
  });
  check(computed[kLost] >= 2, "a task whose thread does not come back is computed again");
  for (auto& count : published) check(count == 1, "a task is published once");
  for (auto& count : next) check(count == 1, "a task that is not computed apart runs once");
}

// Each job adds to what the one before has left, in memory that is not atomic.
void a_job_begins_when_the_one_before_is_over(Pool& pool) {
  constexpr long kJobs = 2'000, kItems = 64;
  std::vector<long> sums(kItems, 1), before(kItems, 1);
  pool.together([&](Team& team) {
    for (long job = 0; job < kJobs; ++job) {
      const long tasks = job % kItems + 1;
      auto add = [&](long task) { sums[task] += before[(task + 1) % tasks] % 1'000; };
      if (job % 2) {
        thread_local long sum;
        team.run(
            tasks, [&](long task) { sum = sums[task] + before[(task + 1) % tasks] % 1'000; },
            [&](long task) { sums[task] = sum; });
      } else {
        team.run(tasks, add);
      }
      team.run(tasks, [&](long task) { before[task] = sums[task]; });
    }
  });
  std::vector<long> wanted(kItems, 1), last(kItems, 1);
  for (long job = 0; job < kJobs; ++job) {
    const long tasks = job % kItems + 1;
    for (long task = 0; task < tasks; ++task) wanted[task] += last[(task + 1) % tasks] % 1'000;
    for (long task = 0; task < tasks; ++task) last[task] = wanted[task];
  }
  check(sums == wanted, "a job sees what the one before has left, and nothing of the one behind it");
}

void pieces_cover_all(Pool& pool) {
  for (long items : {0L, 1L, 3L, 100L, 12'345L}) {
    std::vector<std::atomic<int>> seen(items);
    pool.run_range(items, 1'000, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) ++seen[i];
    });
    for (auto& count : seen) check(count == 1, "pieces cover every item once");
  }
}

}  // namespace

int main() {
  Pool pool(4);
  for (int i = 0; i < 50; ++i) others_go_on_without_a_thread(pool);
  a_job_begins_when_the_one_before_is_over(pool);
  pieces_cover_all(pool);
}
