"""What is noted of each step: kept as it comes, and looked at many steps at a time."""

import struct
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MOST: Final = 1024
_BYTES: Final = 8


class Rows:
    """Whole numbers, so many in a row. A row costs a fraction of a microsecond, a histogram of each would cost one.

    Args:
        width: numbers in a row.
        take: is given all rows since the last time, int64, [num_rows, width].
    """

    def __init__(self, width: int, take: Callable[[NDArray[np.int64]], None]) -> None:
        self._width = width
        self._take = take
        self._buffer = bytearray(_MOST * width * _BYTES)
        self._pack_into = struct.Struct(f"={width}q").pack_into
        self._end = 0

    def add(self, *row: int) -> None:
        """One more."""
        self._pack_into(self._buffer, self._end, *row)
        self._end += self._width * _BYTES
        if self._end == len(self._buffer):
            self.flush()

    def flush(self) -> None:
        """Every row has been taken then."""
        count = self._end // _BYTES
        self._end = 0
        if count:
            self._take(np.frombuffer(self._buffer, np.int64, count).reshape(-1, self._width))
