// What a thread does between two looks at what it waits for.
#pragma once

namespace quire {

inline constexpr int kPausesPerLook = 8;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace quire
