// What a thread does between two looks at what it waits for.
#pragma once

namespace quire {

inline void pause() {
#if defined(__x86_64__)
  for (int i = 0; i < 8; ++i) __builtin_ia32_pause();
#endif
}

}  // namespace quire
