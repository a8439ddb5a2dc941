"""What the machine can do at this moment: the rates at which its cores read memory and multiply matrices."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

_SHAPES = ((512, 576, 1536), (512, 1024, 1024), (1024, 1024, 1024), (2048, 2048, 2048))
# OpenMP's threads look for more work for some milliseconds, on the cores that compute next.
_QUIET_SECONDS = 0.01


@dataclass(frozen=True)
class Ceilings:
    """Bytes and operations per second."""

    read: float
    multiply: float

    def highest(self, other: "Ceilings") -> "Ceilings":
        return Ceilings(max(self.read, other.read), max(self.multiply, other.multiply))


class Machine:
    """PyTorch's sum over 512 MiB, and its own products at the best of four shapes.

    Args:
        dtype: of the products.
        num_threads: that PyTorch uses for both.
    """

    def __init__(self, dtype: torch.dtype, num_threads: int) -> None:
        self._memory = torch.ones(1 << 27)
        self._num_threads = num_threads
        self._products = [
            (2 * rows * columns * depth, torch.randn(rows, depth).to(dtype), torch.randn(columns, depth).to(dtype).T)
            for rows, columns, depth in _SHAPES
        ]

    def ceilings(self) -> Ceilings:
        """As of now; takes some 0.1 s."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._num_threads)
        read = self._memory.nbytes / _fastest(self._memory.sum)
        multiply = max(operations / _fastest(partial(torch.mm, a, b)) for operations, a, b in self._products)
        torch.set_num_threads(before)
        time.sleep(_QUIET_SECONDS)
        return Ceilings(read, multiply)


def _fastest(call: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
