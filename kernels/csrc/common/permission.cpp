// Whether the system lets this process use the instructions that the library was compiled for.

#include "api.h"

#if defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>

namespace {
// Tiles are 8 KiB of state to save for every thread, so that Linux wants to be asked (its documentation: x86/xstate).
constexpr long kRequestPermission = 0x1023, kTileData = 18;
}  // namespace

extern "C" int quire_is_permitted() { return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0; }
#else
extern "C" int quire_is_permitted() { return 1; }
#endif
