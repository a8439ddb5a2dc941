"""Who starts: waiting sequences in order, with small ones allowed past a large one that does not fit yet."""

from collections.abc import Iterator

from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.capacity.base import CapacityScheduler
from quire.engine.scheduling.queue import WaitingQueue
from quire.engine.sequence import Sequence

# Sequences that do not fit, looked past in one step.
MAX_BLOCKED = 16


class Admission:
    """Walks the waiting queue.

    At most `max_passes` later sequences pass one that does not fit. After that nothing passes it. It starts once enough
    running sequences have finished; the longest of them is bounded by its max_tokens. A sequence that ran before is
    never passed.

    Args:
        max_passes: see above; 0 is strict order.
    """

    def __init__(self, waiting: WaitingQueue, kv: KVCacheManager, capacity: CapacityScheduler, max_passes: int) -> None:
        self._waiting = waiting
        self._kv = kv
        self._capacity = capacity
        self._max_passes = max_passes
        self._look = True

    def look_again(self) -> None:
        """Something changed that may let a waiting sequence start; until then nothing is looked at twice."""
        self._look = True

    def candidates(self) -> Iterator[Sequence]:
        """Sequences that may start now, each to be started before the next is asked for."""
        if not self._look:
            return
        blocked: list[Sequence] = []
        awaiting = False
        for sequence in self._waiting:
            if self._kv.awaits(sequence, len(self._kv.match(sequence))):
                # The block that it needs next is there in a step: it waits for that one only.
                awaiting = True
            elif self._capacity.fits(sequence):
                for passed in blocked:
                    passed.num_passed += 1
                yield sequence
            else:
                blocked.append(sequence)
            if len(blocked) >= MAX_BLOCKED or any(map(self._must_be_next, blocked)):
                break
        self._look = awaiting

    def _must_be_next(self, sequence: Sequence) -> bool:
        return sequence.was_started or sequence.num_passed >= self._max_passes
