"""The waiting queue: priority with ageing, which for equal priorities is first come, first served."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from quire.engine.api.errors import Overloaded
from quire.engine.drain_rate import DrainRate
from quire.engine.sequence import Sequence


class WaitingQueue:
    """Sequences that hold nothing, in the order in which they may start; bounded in requests and in tokens.

    Waiting raises every sequence's priority at the same rate, so the order of the queue never changes. One number fixed
    at arrival is enough: arrival - priority x ageing. A sequence of higher priority passes those that arrived before it
    by less than the difference x ageing.

    Args:
        max_requests, max_tokens: more are refused.
        ageing: seconds that count as much as one level of priority.
        clock: seconds, monotonic.
    """

    def __init__(self, max_requests: int, max_tokens: int, ageing: float, clock: Callable[[], float]) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self._ageing = ageing
        self._clock = clock
        self._rate = DrainRate(clock)
        self._num_tokens = 0
        self._num_entered = 0
        self._entries: list[tuple[float, int, Sequence]] = []
        self._keys: dict[Sequence, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for _, _, sequence in self._entries)

    @property
    def num_tokens(self) -> int:
        """Context tokens of all that wait."""
        return self._num_tokens

    @property
    def room(self) -> int:
        """Requests that may still join; 0 if the tokens alone fill it."""
        return 0 if self._num_tokens >= self.max_tokens else max(0, self.max_requests - len(self))

    @property
    def retry_after(self) -> float:
        """Seconds in which all that wait will have started, at the pace of the last ones."""
        return self._rate.seconds_for(len(self))

    def append(self, sequence: Sequence) -> None:
        """Joins in the order of priority and arrival.

        Raises:
            Overloaded: the queue is full.
        """
        if len(self) >= self.max_requests:
            raise Overloaded(f"{len(self)} requests wait, at most {self.max_requests} may", self.retry_after)
        num_tokens = self._num_tokens + sequence.num_context
        if self._entries and num_tokens > self.max_tokens:
            limit = f"at most {self.max_tokens} may"
            raise Overloaded(f"{num_tokens} tokens would wait, {limit}", self.retry_after)
        self._insert(self._clock() - sequence.request.options.priority * self._ageing, sequence)

    def restore(self, sequence: Sequence) -> None:
        """Puts back a sequence that was accepted before, ahead of all that are new and whatever the bounds."""
        self._insert(float("-inf"), sequence)

    def start(self, sequence: Sequence) -> None:
        """Takes one out whose turn has come."""
        self.remove(sequence)
        self._rate.depart()

    def remove(self, sequence: Sequence) -> None:
        """Takes one out that ended, or that waits elsewhere."""
        key = self._keys.pop(sequence)
        del self._entries[bisect_left(self._entries, key, key=lambda entry: entry[:2])]
        self._num_tokens -= sequence.num_context

    def _insert(self, urgency: float, sequence: Sequence) -> None:
        if not self._entries:
            self._rate.begin()
        self._num_entered += 1
        self._keys[sequence] = (urgency, self._num_entered)
        insort(self._entries, (urgency, self._num_entered, sequence))
        self._num_tokens += sequence.num_context
