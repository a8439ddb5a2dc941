"""Memory in huge pages: the processor finds 2 MiB with one look-up in place of 512, and reads ahead further."""

import ctypes
import math
import mmap
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import torch
from torch import Tensor

_HUGE: Final = 2 << 20
_CHUNK: Final = 64 << 20
_LINE: Final = 64
# MADV_POPULATE_WRITE of madvise(2).
_POPULATE_WRITE: Final = 23
# Name of the threads that touch pages.
TOUCHING: Final = "quire-pages"


def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """On the CPU, in huge pages where the system gives them.

    The system clears a page when it is first touched, and no step should wait for that. So a thread touches all, from
    the first to the last, from now on.

    Raises:
        OSError: there is not so much memory.
    """
    memory = _untouched(math.prod(shape) * dtype.itemsize)
    threading.Thread(target=_touch, args=(memory,), name=TOUCHING, daemon=True).start()
    return memory.view(dtype).view(*shape)


def _touch(memory: Tensor) -> None:
    """Makes all pages be there; whatever others write to them meanwhile stays."""
    libc = ctypes.CDLL(None, use_errno=True)
    for chunk in torch.split(memory, _CHUNK):
        if libc.madvise(ctypes.c_void_p(chunk.data_ptr()), ctypes.c_size_t(len(chunk)), _POPULATE_WRITE):
            return  # a system before Linux 5.14: who writes first waits


def _untouched(size: int) -> Tensor:
    """So many bytes of zeros that take no memory before they are written to."""
    # One page more, so that it can begin where a page does.
    pages = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # A system built without them says that there is no such advice; its pages do, too.
        with suppress(OSError):
            pages.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(pages, dtype=torch.uint8)
    begin = -whole.data_ptr() % _HUGE
    return whole[begin : begin + size]


class Arena:
    """Tensors that lie one behind the other in huge pages, as they are smaller than one."""

    def __init__(self) -> None:
        self._left = torch.empty(0, dtype=torch.uint8)

    def empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """[count], aligned to cache lines; its chunk of memory lives as long as any tensor in it."""
        size = -(-count * dtype.itemsize // _LINE) * _LINE
        if size > len(self._left):
            self._left = _untouched(max(size, _CHUNK))
        taken, self._left = self._left[: count * dtype.itemsize], self._left[size:]
        return taken.view(dtype)
