#include "jobs.h"

namespace quire {
namespace {

constexpr int kTaskBits = 20;  // the others are enough for forty thousand jobs a second for a decade
constexpr uint64_t kTaskMask = (uint64_t{1} << kTaskBits) - 1;
static_assert(Jobs::kMostTasks == kTaskMask - 1);

uint64_t word(uint64_t job, long task) { return job << kTaskBits | static_cast<uint64_t>(task); }
uint64_t job_of(uint64_t word) { return word >> kTaskBits; }
long task_of(uint64_t word) { return static_cast<long>(word & kTaskMask); }

}  // namespace

// A range of an earlier job was claimed to its end: no thread enters this job before that one is over.
long Jobs::claim(uint64_t job, int range, long begin, long end) {
  if (begin == end) return kNone;
  auto& claimed = claimed_[range].value;
  uint64_t seen = claimed.load(std::memory_order_relaxed);
  for (;;) {
    if (job_of(seen) > job) return kNone;
    const long task = job_of(seen) == job ? task_of(seen) : begin;
    if (task == end) return kNone;
    if (claimed.compare_exchange_weak(seen, word(job, task + 1), std::memory_order_relaxed)) return task;
  }
}

void Jobs::announce(uint64_t job, int thread, long task) {
  computing_[thread].value.store(word(job, task + 1), std::memory_order_relaxed);
}

long Jobs::announced(uint64_t job, int thread) const {
  const uint64_t seen = computing_[thread].value.load(std::memory_order_relaxed);
  return job_of(seen) == job ? task_of(seen) - 1 : kNone;
}

bool Jobs::take(uint64_t job, int thread, long task) {
  uint64_t expected = word(job, task + 1);
  return computing_[thread].value.compare_exchange_strong(expected, word(job, 0), std::memory_order_relaxed);
}

void Jobs::finish(uint64_t job, int thread) {
  auto& done = done_[thread].value;
  const uint64_t seen = done.load(std::memory_order_relaxed);
  done.store(job_of(seen) == job ? seen + 1 : word(job, 1), std::memory_order_release);
}

bool Jobs::is_finished(uint64_t job, long num_tasks) {
  if (is_over(job)) return true;
  for (const Word& done : done_) {
    const uint64_t seen = done.value.load(std::memory_order_acquire);
    if (job_of(seen) == job) num_tasks -= task_of(seen);
  }
  if (num_tasks > 0) return false;
  // Others may be ahead by now: then the number is not set back. Behind a load that is too old this fails as well.
  current_.value.compare_exchange_strong(job, job + 1, std::memory_order_acq_rel);
  return true;
}

}  // namespace quire
