#include "pool.h"

#include <chrono>

#include "api.h"
#include "pause.h"

namespace quire {
namespace {

using Clock = std::chrono::steady_clock;

// A helper spins through the caller's few microseconds between two operations of a step, and sleeps between steps.
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kLooks = 200;

// The door: helpers inside, whether it is open, the number of the call.
constexpr uint64_t kOpen = 1 << 16, kCall = kOpen << 1, kInside = kOpen - 1;

uint64_t call_of(uint64_t door) { return door / kCall; }

}  // namespace

Pool::Pool(int num_threads) : jobs_(num_threads) {
  for (int i = 1; i < num_threads; ++i) helpers_.emplace_back([this, i] { help(i); });
}

Pool::~Pool() {
  stopping_ = true;
  wake();
  for (auto& helper : helpers_) helper.join();
}

void Pool::call_together(const void* context, Call call) {
  context_ = context, call_ = call, first_job_ = jobs_.current();
  door_.fetch_add(kCall + kOpen);
  wake();
  Team team(jobs_, 0, first_job_);
  call(context, team);
  door_.fetch_sub(kOpen);
  for (int looks = 0; door_.load(std::memory_order_acquire) & kInside; ++looks) {
    // The helper may have been put on this very core: after a short spin, let it have it.
    if (looks < kLooks) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

// Not under a mutex: a helper that loses its core just when it has one would hold up the caller.
void Pool::wake() {
  num_calls_.fetch_add(1);
  num_calls_.notify_all();
}

void Pool::help(int self) {
  uint64_t last = 0;
  while (wait_for_call(last)) {
    if (!enter(last)) continue;
    Team team(jobs_, self, first_job_);
    call_(context_, team);
    door_.fetch_sub(1, std::memory_order_release);
  }
}

// False if the call is over already.
bool Pool::enter(uint64_t& last) {
  uint64_t door = door_.load(std::memory_order_acquire);
  for (;;) {
    last = call_of(door);
    if (!(door & kOpen)) return false;
    if (door_.compare_exchange_weak(door, door + 1, std::memory_order_acq_rel, std::memory_order_acquire)) return true;
  }
}

// Until there is another call than the last one; false if the pool stops.
bool Pool::wait_for_call(uint64_t last) {
  auto changed = [&] { return call_of(door_.load()) != last || stopping_.load(); };
  for (auto deadline = Clock::now() + kSpin; Clock::now() < deadline;) {
    pause();
    if (changed()) return !stopping_;
  }
  for (;;) {
    const int seen = num_calls_.load();  // before the look: what comes behind it has another number
    if (changed()) return !stopping_;
    num_calls_.wait(seen);
  }
}

}  // namespace quire

extern "C" {

quire::Pool* quire_pool_new(int num_threads) { return new quire::Pool(num_threads); }

void quire_pool_delete(quire::Pool* pool) { delete pool; }
}
