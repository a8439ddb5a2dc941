"""Where numbers gather until they are asked for. Plain, as they are counted on the path of every step and token.

One event loop writes and reads them, so there is no lock: a sixth of what a step may spend on all of its metrics.
"""

from bisect import bisect_left
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray


class Value:
    """A counter or a gauge.

    Attributes:
        value: to be changed as it is.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Histogram:
    """Counts by size.

    Args:
        bounds: upper ones of the buckets, ascending; what is larger than the last is in one more.

    Attributes:
        sum: of all that was observed.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, size: float, count: int = 1) -> None:
        """So many of one size."""
        self._counts[bisect_left(self._bounds, size)] += count
        self.sum += size * count

    def observe_all(self, sizes: NDArray[np.float64]) -> None:
        """One of each size."""
        places = np.searchsorted(self._bounds, sizes)
        for place, count in enumerate(np.bincount(places, minlength=len(self._counts)).tolist()):
            self._counts[place] += count
        self.sum += float(sizes.sum())

    @property
    def buckets(self) -> list[tuple[str, int]]:
        """Upper bounds and how many are at most as large."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))
