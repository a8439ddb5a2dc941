"""What may be spent in a minute."""

from collections.abc import Callable


class Budget:
    """A bucket that fills at an even rate (J. Turner, "New directions in communications", 1986).

    A minute's worth may be spent at once. What is spent beyond it is owed, and waited for.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent = 0.0
        self._at = clock()

    def seconds_until_free(self, per_minute: float) -> float:
        """After so many seconds one more may be spent; 0: now."""
        self._refill(per_minute)
        return max(0.0, (self._spent + 1 - per_minute) * 60 / per_minute)

    def spend(self, amount: int) -> None:
        self._spent += amount

    def _refill(self, per_minute: float) -> None:
        now = self._clock()
        self._spent = max(0.0, self._spent - (now - self._at) * per_minute / 60)
        self._at = now
