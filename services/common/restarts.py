"""How long to wait before a process that has ended is started again."""

from typing import Final

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 30.0
# One that has run for so long begins again with the first pause.
STEADY_SECONDS: Final = 60.0


class Pauses:
    """Of one process: each is twice as long as the one before, up to a limit."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE_SECONDS

    def after(self, seconds: float) -> float:
        """The pause after it has run for so long."""
        pause = FIRST_PAUSE_SECONDS if seconds >= STEADY_SECONDS else self._next
        self._next = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return pause
