#include "team.h"

#include <thread>

#include "pause.h"

namespace quire {

bool Team::wait(uint64_t job, long num_tasks, Clock::duration patience) const {
  const auto deadline = Clock::now() + patience;
  do {
    pause();
    if (jobs_.is_finished(job, num_tasks)) return true;
  } while (Clock::now() < deadline);
  std::this_thread::yield();
  return false;
}

}  // namespace quire
