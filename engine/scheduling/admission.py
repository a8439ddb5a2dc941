"""Who starts: waiting sequences in order, with small ones allowed past a large one that does not fit yet."""

from collections.abc import Iterator

from quire.engine.resources.base import ResourceManager
from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.capacity.base import CapacityScheduler
from quire.engine.scheduling.invariants import check_order
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
        resources: may let a sequence wait; whoever comes behind it passes it then.
        max_passes: see above; 0 is strict order.
    """

    def __init__(
        self,
        waiting: WaitingQueue,
        kv: KVCacheManager,
        capacity: CapacityScheduler,
        resources: ResourceManager,
        max_passes: int,
    ) -> None:
        self._waiting = waiting
        self._kv = kv
        self._capacity = capacity
        self._resources = resources
        self._max_passes = max_passes
        self._look = True
        self._is_delaying = False

    @property
    def is_delaying(self) -> bool:
        """Whether a resource manager has let a sequence wait that would have started."""
        return self._is_delaying

    def look_again(self) -> None:
        """Something changed that may let a waiting sequence start; until then nothing is looked at twice."""
        self._look = True

    def candidates(self) -> Iterator[Sequence]:
        """Sequences that may start now, each to be started before the next is asked for."""
        if not self._look:
            return
        blocked: list[Sequence] = []
        awaiting = self._is_delaying = False
        for sequence in self._capacity.order(self._waiting):
            check_order(self._capacity, sequence)
            if self._kv.awaits(sequence, len(self._kv.match(sequence)[0])):
                # The block that it needs next is there in a step: it waits for that one only.
                awaiting = True
            elif not self._capacity.fits(sequence):
                blocked.append(sequence)
            elif not self._resources.can_start(sequence):
                awaiting = self._is_delaying = True
            else:
                for passed in blocked:
                    passed.num_passed += 1
                yield sequence
            if len(blocked) >= MAX_BLOCKED or any(map(self._must_be_next, blocked)):
                break
        self._look = awaiting

    def _must_be_next(self, sequence: Sequence) -> bool:
        return sequence.was_started or sequence.num_passed >= self._max_passes
