"""How fast a queue is worked off, for those who have to be told when to come back."""

from collections.abc import Callable
from typing import Final

# Departures that the pace is the mean of.
_WINDOW: Final = 64
# A sooner retry is useless; after a longer time a client had better go elsewhere.
MIN_SECONDS: Final = 1.0
MAX_SECONDS: Final = 600.0


class DrainRate:
    """The mean time between departures while somebody waits.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0.0
        self._num_seen = 0
        self._mean = 0.0

    def begin(self) -> None:
        """The queue was empty, and is not any more: idle time says nothing about the pace."""
        self._last = self._clock()

    def depart(self) -> None:
        """A waiting item has left the queue."""
        now = self._clock()
        self._num_seen = min(self._num_seen + 1, _WINDOW)
        self._mean += (now - self._last - self._mean) / self._num_seen
        self._last = now

    def seconds_for(self, count: int) -> float:
        """How long `count` departures take at the present pace, `MIN_SECONDS` to `MAX_SECONDS`."""
        return min(MAX_SECONDS, max(MIN_SECONDS, count * self._mean))
