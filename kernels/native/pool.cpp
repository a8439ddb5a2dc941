#include "pool.h"

#include "api.h"

#include <chrono>

namespace quire {
namespace {

using Clock = std::chrono::steady_clock;

// A helper spins through the caller's few microseconds between two operations of a step, and sleeps between steps.
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kPausesPerLook = 8;
constexpr uint64_t kClosed = 0xffffffff;  // a task number that no job has

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

uint32_t epoch_of(uint64_t ticket) { return static_cast<uint32_t>(ticket >> 32); }

}  // namespace

Pool::Pool(int num_threads) : next_(num_threads) {
  for (int i = 1; i < num_threads; ++i) helpers_.emplace_back([this] { help(); });
}

Pool::~Pool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (auto& helper : helpers_) helper.join();
}

void Pool::run_shared(uint32_t num_tasks, const void* context, Call call) {
  // Closed first: a helper that still looks at the job before must not claim with what belongs to this one.
  uint64_t epoch = epoch_of(ticket_.load(std::memory_order_relaxed));
  ticket_.store(epoch << 32 | kClosed);
  num_done_.store(0, std::memory_order_relaxed);
  num_tasks_.store(num_tasks, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  call_.store(call, std::memory_order_release);
  ticket_.store((epoch + 1) << 32);
  if (num_asleep_.load() > 0) {
    // Under the mutex, or a helper between its last look and its sleep would miss it.
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  while (work_once()) {
  }
  for (int looks = 0; num_done_.load(std::memory_order_acquire) < num_tasks; ++looks) {
    // The helper may have been put on this very core: after a short spin, let it have it.
    if (looks < 200) {
      for (int i = 0; i < kPausesPerLook; ++i) pause();
    } else {
      std::this_thread::yield();
    }
  }
}

// Claims and computes one task; false if none is left.
bool Pool::work_once() {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  for (;;) {
    uint32_t task = static_cast<uint32_t>(ticket);
    if (task >= num_tasks_.load(std::memory_order_acquire)) return false;
    const void* context = context_.load(std::memory_order_acquire);
    Call call = call_.load(std::memory_order_acquire);
    // Succeeds only if nothing was closed or opened since the ticket was read, hence with what belongs to it.
    if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      call(context, task);
      num_done_.fetch_add(1, std::memory_order_release);
      return true;
    }
  }
}

void Pool::help() {
  uint32_t epoch = 0;
  while (wait_for_job(epoch)) {
    epoch = epoch_of(ticket_.load(std::memory_order_acquire));
    while (work_once()) {
    }
  }
}

// Until the epoch changes; false if the pool stops.
bool Pool::wait_for_job(uint32_t last_epoch) {
  auto changed = [&] { return epoch_of(ticket_.load()) != last_epoch || stopping_.load(); };
  for (auto deadline = Clock::now() + kSpin; Clock::now() < deadline;) {
    for (int i = 0; i < kPausesPerLook; ++i) pause();
    if (changed()) return !stopping_;
  }
  std::unique_lock lock(mutex_);
  num_asleep_.fetch_add(1);
  wake_.wait(lock, changed);
  num_asleep_.fetch_sub(1);
  return !stopping_;
}

}  // namespace quire

extern "C" {

quire::Pool* quire_pool_new(int num_threads) { return new quire::Pool(num_threads); }

void quire_pool_delete(quire::Pool* pool) { delete pool; }
}
