"""Becomes another command that gets SIGTERM when the process that started it ends, in whichever way.

    python bound.py PARENT COMMAND [ARGUMENT...]

What only holds while the parent lives would be lost with a SIGKILL of it. Kept by the kernel across the exec, see
PR_SET_PDEATHSIG in prctl(2).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(parent):  # it has ended meanwhile
        raise SystemExit(1)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
