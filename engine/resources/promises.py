"""Blocks that are set aside: what started sequences may still take, in the sum."""

from collections.abc import Iterable

from quire.engine.resources.block_pool import BlockPool
from quire.engine.sequence import Sequence


class Promises:
    """Keeps enough blocks available for every started sequence to hold what is reserved for it.

    Blocks of a window that several sequences hold count once more for each further one: when the first lets go, none
    becomes available, and it takes another in its place.

    Args:
        pool: the mirror.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._num_reserved = 0
        self._num_repeated = 0

    @property
    def total(self) -> int:
        """Available blocks that must stay available."""
        return self._num_reserved + self._num_repeated

    def begin(self, sequence: Sequence) -> None:
        """A sequence starts with what its block tables hold."""
        sequence.num_held = sum(len(table.blocks) - table.num_gone for table in sequence.tables)
        self._num_reserved += max(0, sequence.num_reserved - sequence.num_held)

    def change(self, sequence: Sequence, count: int) -> None:
        """It holds so many blocks more."""
        before = sequence.num_reserved - sequence.num_held
        after = before - count
        sequence.num_held += count
        # Once for every block that is begun: `max` would take as long as all else here.
        self._num_reserved += (after if after > 0 else 0) - (before if before > 0 else 0)

    def end(self, sequence: Sequence) -> None:
        """It is about to hold nothing."""
        self._num_reserved -= max(0, sequence.num_reserved - sequence.num_held)
        sequence.num_held = 0

    def share(self, blocks: Iterable[int]) -> None:
        """Blocks of a window are about to get one more holder."""
        self._num_repeated += sum(not self._pool.is_cached(block) for block in blocks)

    def unshare(self, blocks: Iterable[int]) -> None:
        """Blocks of a window are about to have one holder less."""
        self._num_repeated -= sum(self._pool.num_holders(block) > 1 for block in blocks)
