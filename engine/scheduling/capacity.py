"""Who may hold KV blocks: the capacity policies."""

from abc import ABC, abstractmethod

from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.sequence import Sequence


class CapacityScheduler(ABC):
    """Decides whether a waiting sequence may start, given what the started ones hold.

    Args:
        kv: whose blocks are at stake.
    """

    def __init__(self, kv: KVCacheManager) -> None:
        self._kv = kv

    @abstractmethod
    def fits(self, sequence: Sequence) -> bool:
        """Whether the sequence may start now; asked for one after the other, in waiting order."""


class GuaranteedNoEvict(CapacityScheduler):
    """A started sequence is never paused: the blocks it may take until completion are set aside.

    Cached prefix blocks count as held, not as needed. Source: TensorRT-LLM's policy of this name.
    """

    def fits(self, sequence: Sequence) -> bool:
        pool = self._kv.pool
        shared = self._kv.match(sequence)
        needed = self._kv.num_to_completion(sequence) - len(shared)
        # Sharing a block that nobody holds takes it out of what can be evicted.
        pinned = sum(map(pool.is_cached, shared))
        return needed <= pool.num_available - pinned - self._kv.num_promised
