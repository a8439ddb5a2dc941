"""Memory in huge pages: the processor finds 2 MiB with one look-up in place of 512, and reads ahead further."""

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import torch
from torch import Tensor

_HUGE: Final = 2 << 20
_CHUNK: Final = 64 << 20
_LINE: Final = 64


def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """On the CPU, in huge pages where the system gives them.

    Every page is written to now. The system clears a page when it is first touched, and no step should wait for that.
    Missing memory is found at the start, too.

    Raises:
        OSError: there is not so much memory.
    """
    return _untouched(math.prod(shape) * dtype.itemsize).zero_().view(dtype).view(*shape)


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
