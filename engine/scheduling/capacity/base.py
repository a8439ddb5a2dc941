"""The interface of capacity policies."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.generation import GenerationBatch
from quire.engine.sequence import Sequence


class CapacityScheduler(ABC):
    """Decides who starts, what is set aside for it, and who must make room.

    For each step the scheduler calls `begin_step`, then `victims`, then `order`, then `fits` for waiting sequences in
    that order. It starts each sequence that fits before it asks about the next. A plug-in is a subclass with the same
    constructor.

    Args:
        kv: whose blocks are at stake.
        generation: the sequences that generate.
    """

    def __init__(self, kv: KVCacheManager, generation: GenerationBatch) -> None:
        self.kv = kv
        self.generation = generation
        self.is_empty = True

    @abstractmethod
    def reservation(self, sequence: Sequence) -> int:
        """Blocks to set aside for the sequence when it starts, at least those of its context; it gets them."""

    def headroom(self, sequence: Sequence) -> int:
        """Blocks that must stay free beyond reservations when the sequence starts."""
        return 0

    def begin_step(self, num_running: int) -> None:
        """A step is about to be planned, while `num_running` sequences hold slots."""
        self.is_empty = num_running == 0

    def victims(self, running: Callable[[], list[Sequence]], num_retiring: int) -> list[Sequence]:
        """Sequences to pause so that the others can go on.

        Args:
            running: gives those in context or generation, in the order of their starts.
            num_retiring: blocks that become available once the steps in flight are over.
        """
        return []

    def order(self, waiting: Iterable[Sequence]) -> Iterable[Sequence]:
        """The waiting sequences in the order in which they may start.

        Args:
            waiting: by priority, ageing and arrival; those that ran before come first.
        """
        return waiting

    def fits(self, sequence: Sequence) -> bool:
        """Whether a waiting sequence may start now. Prefix blocks that others hold count as held, not as needed."""
        return self.room_beside(sequence) >= 0

    def room_beside(self, sequence: Sequence) -> int:
        """Blocks left, beyond reservations and headroom, if a waiting sequence starts; negative: those missing."""
        needed = self.kv.num_needed(sequence, self.reservation(sequence))
        headroom = 0 if self.is_empty else self.headroom(sequence)
        return self.kv.num_unpromised - needed - headroom
