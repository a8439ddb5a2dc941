"""Which cached block goes next: lowest priority first, within it the least recently used."""

import heapq
from collections.abc import Callable, Mapping

from quire.engine.api.options import DEFAULT_RETENTION_PRIORITY
from quire.engine.resources.rank import make_rank, tick_of

# The heaps may hold this many outdated entries for each one that counts.
SLACK = 2


class EvictionOrder:
    """Cached blocks in order of eviction.

    An entry is outdated when its block is no longer cached under the same rank. Outdated entries are skipped when met,
    and removed when they are many. So every operation takes logarithmic time.

    Args:
        clock: unix time in milliseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._ranks: dict[int, int] = {}
        self._order: list[tuple[int, int]] = []
        self._expiring: list[tuple[int, int, int]] = []

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, block: int) -> bool:
        return block in self._ranks

    def add(self, block: int, rank: int, expires: int) -> None:
        """A block becomes cached; its priority is void after unix millisecond `expires`, 0: never."""
        self._ranks[block] = rank
        heapq.heappush(self._order, (rank, block))
        if expires:
            heapq.heappush(self._expiring, (expires, rank, block))
        if len(self._order) > (1 + SLACK) * len(self._ranks) + 64:
            self._order = [(rank, block) for block, rank in self._ranks.items()]
            heapq.heapify(self._order)

    def remove(self, block: int) -> None:
        """A block is no longer cached; harmless if it was not."""
        self._ranks.pop(block, None)

    def pop(self) -> int:
        """Takes out the block that goes next; there must be one."""
        self._demote_expired()
        while True:
            rank, block = heapq.heappop(self._order)
            if self._ranks.get(block) == rank:
                del self._ranks[block]
                return block

    def _demote_expired(self) -> None:
        now = self._clock()
        while self._expiring and self._expiring[0][0] <= now:
            _, rank, block = heapq.heappop(self._expiring)
            if self._ranks.get(block) == rank:
                self._ranks[block] = make_rank(DEFAULT_RETENTION_PRIORITY, tick_of(rank))
                heapq.heappush(self._order, (self._ranks[block], block))


def restored(order: EvictionOrder, cached: Mapping[int, int], expires: Mapping[int, int]) -> EvictionOrder:
    """The order, with the blocks that a ledger remembers."""
    for block, rank in cached.items():
        order.add(block, rank, expires.get(block, 0))
    return order
