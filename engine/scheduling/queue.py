"""The waiting queue: a line for each tenant, and in a line priority with ageing, which for equal priorities is first
come, first served."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from heapq import merge
from typing import TypeAlias

from quire.engine.api.errors import Overloaded
from quire.engine.drain_rate import DrainRate
from quire.engine.scheduling.tenants.base import TenantPolicy
from quire.engine.sequence import Sequence
from quire.engine.shared_bound import SharedBound

_Entry: TypeAlias = tuple[float, int, Sequence]
_FIRST = float("-inf")


class WaitingQueue:
    """Sequences that hold nothing, in the order in which they may start; bounded in requests and in tokens.

    Waiting raises every sequence's priority at the same rate, so the order of a line never changes. One number fixed
    at arrival is enough: arrival - priority x ageing. A sequence of higher priority passes those that arrived before it
    by less than the difference x ageing.

    Args:
        max_requests, max_tokens: more are refused.
        ageing: seconds that count as much as one level of priority.
        clock: seconds, monotonic.
        tenants: whose turn it is.
    """

    def __init__(
        self, max_requests: int, max_tokens: int, ageing: float, clock: Callable[[], float], tenants: TenantPolicy
    ) -> None:
        self._requests, self._tokens = SharedBound(max_requests), SharedBound(max_tokens)
        self._ageing = ageing
        self._clock = clock
        self._tenants = tenants
        self._rate = DrainRate(clock)
        self._num_entered = 0
        # Those in which sequences wait.
        self._lines: dict[str, list[_Entry]] = {}
        self._keys: dict[Sequence, tuple[str, float, int]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Sequence]:
        lines = list(self._lines)
        entries = self._lines[lines[0]] if len(lines) == 1 else merge(*map(self._in_turn, lines))
        return (entry[-1] for entry in entries)

    @property
    def max_requests(self) -> int:
        return self._requests.most

    @property
    def max_tokens(self) -> int:
        return self._tokens.most

    @property
    def num_tokens(self) -> int:
        """Context tokens of all that wait."""
        return self._tokens.held

    @property
    def room(self) -> int:
        """Requests that may still join; 0 if the tokens alone fill it."""
        return 0 if self.num_tokens >= self.max_tokens else max(0, self.max_requests - len(self))

    @property
    def full_lines(self) -> set[str]:
        """Lines that nothing may join, while there is room for others."""
        return {*self._requests.full_for(), *self._tokens.full_for()}

    @property
    def retry_after(self) -> float:
        """Seconds in which all that wait will have started, at the pace of the last ones."""
        return self._rate.seconds_for(len(self))

    def append(self, sequence: Sequence) -> None:
        """Joins in the order of priority and arrival.

        Raises:
            Overloaded: the queue is full, or it is for this tenant.
        """
        line, weight, num_tokens = self._tenants.line(sequence), _weight(sequence), sequence.num_context
        if len(self) >= self.max_requests:
            raise Overloaded(f"{len(self)} requests wait, at most {self.max_requests} may", self.retry_after)
        if not self._requests.fits(line, weight):
            raise Overloaded(f"{len(self)} requests wait, {self._requests.excess(line, weight)}", self.retry_after)
        after = self.num_tokens + num_tokens
        if self._keys and after > self.max_tokens:
            raise Overloaded(f"{after} tokens would wait, at most {self.max_tokens} may", self.retry_after)
        if self._keys and not self._tokens.fits(line, weight, num_tokens):
            raise Overloaded(f"{self.num_tokens} tokens wait, {self._tokens.excess(line, weight)}", self.retry_after)
        self._insert(line, self._clock() - sequence.request.options.priority * self._ageing, sequence)

    def restore(self, sequence: Sequence) -> None:
        """Puts back a sequence that was accepted before, ahead of all of its line that are new, whatever the bounds.

        One that has made tokens goes ahead of all lines.
        """
        self._insert(self._tenants.line(sequence), _FIRST, sequence)

    def start(self, sequence: Sequence) -> None:
        """Takes one out whose turn has come."""
        self.remove(sequence)
        self._tenants.start(sequence)
        self._rate.depart()

    def remove(self, sequence: Sequence) -> None:
        """Takes one out that ended, or that waits elsewhere."""
        line, *key = self._keys.pop(sequence)
        entries = self._lines[line]
        del entries[bisect_left(entries, tuple(key), key=lambda entry: entry[:2])]
        if not entries:
            del self._lines[line]
        self._requests.remove(line)
        self._tokens.remove(line, sequence.num_context)

    def _insert(self, line: str, urgency: float, sequence: Sequence) -> None:
        if not self._keys:
            self._rate.begin()
        self._num_entered += 1
        self._keys[sequence] = (line, urgency, self._num_entered)
        self._requests.add(line, _weight(sequence))
        self._tokens.add(line, _weight(sequence), sequence.num_context)
        entries = self._lines.setdefault(line, [])
        insort(entries, (urgency, self._num_entered, sequence))
        if len(entries) == 1:
            self._tenants.enter(line, self._lines.keys() - {line})

    def _in_turn(self, line: str) -> Iterator[tuple[float, float, int, Sequence]]:
        """A line's sequences with the level that the line has when all before them have started."""
        level = self._tenants.level(line)
        for urgency, number, sequence in self._lines[line]:
            if sequence.has_generated:
                yield _FIRST, urgency, number, sequence
            else:
                yield level, urgency, number, sequence
                level += self._tenants.price(sequence)


def _weight(sequence: Sequence) -> int:
    return sequence.request.options.tenant_weight
