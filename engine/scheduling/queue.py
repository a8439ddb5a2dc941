"""The waiting queue: first come, first served."""

from collections import deque
from collections.abc import Iterator

from quire.engine.errors import Overloaded
from quire.engine.scheduling.sequence import Sequence


class WaitingQueue:
    """Sequences that hold nothing yet, in the order in which they may start; bounded.

    Args:
        max_requests: more are refused.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._sequences: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def append(self, sequence: Sequence) -> None:
        """Joins at the end.

        Raises:
            Overloaded: the queue is full.
        """
        if len(self._sequences) >= self._max_requests:
            raise Overloaded(f"{len(self._sequences)} requests wait, at most {self._max_requests} may", 1.0)
        self._sequences.append(sequence)

    def restore(self, sequences: list[Sequence]) -> None:
        """Puts back sequences that ran before, in front and whatever the bound: they were accepted once."""
        self._sequences.extendleft(reversed(sequences))

    def remove(self, sequence: Sequence) -> None:
        """Takes one out, to start it or because it ended."""
        self._sequences.remove(sequence)
