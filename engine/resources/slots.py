"""The executor's slots as a resource."""

from quire.engine.resources.base import ResourceManager
from quire.engine.sequence import Sequence


class SlotManager(ResourceManager):
    """Each started sequence has one slot until no step in flight can hold a row of it."""

    def __init__(self, num_slots: int) -> None:
        self._free = list(reversed(range(num_slots)))
        self._sequences: list[Sequence | None] = [None] * num_slots

    @property
    def num_used(self) -> int:
        return len(self._sequences) - len(self._free)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def by_slot(self) -> list[Sequence | None]:
        """The sequence of each slot, or None; read only."""
        return self._sequences

    def start(self, sequence: Sequence) -> None:
        sequence.slot = self._free.pop()
        self._sequences[sequence.slot] = sequence

    def free_resources(self, sequence: Sequence) -> None:
        if sequence.slot >= 0:
            self._sequences[sequence.slot] = None
            self._free.append(sequence.slot)
            sequence.slot = -1
