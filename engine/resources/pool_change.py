"""What has changed in one pool's prefix cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from quire.engine.resources.publication import Entry, Publication

_group: Final = attrgetter("group")


@dataclass(frozen=True, slots=True)
class PoolChange:
    """Changes that the ledger has, in the order of the fields.

    Attributes:
        pool: the executor's address.
        block_size: tokens per block.
        is_cleared: everything that was known of the pool is void.
        stored: blocks that can be found; one that was stored before comes again with what was not known of it.
        removed: blocks that cannot be found any more.
        is_partial: the rest of what was one change follows.
    """

    pool: str
    block_size: int
    is_cleared: bool = False
    stored: Sequence[Entry] = ()
    removed: Sequence[Entry] = ()
    is_partial: bool = False

    @property
    def num_blocks(self) -> int:
        return len(self.stored) + len(self.removed)

    def parts(self, num_blocks: int) -> Iterator["PoolChange"]:
        """The same as changes that store or remove at most so many blocks each."""
        stored = [self.stored[start : start + num_blocks] for start in range(0, len(self.stored), num_blocks)]
        removed = [self.removed[start : start + num_blocks] for start in range(0, len(self.removed), num_blocks)]
        parts = [(each, ()) for each in stored] + [((), each) for each in removed] or [((), ())]
        for index, (new, old) in enumerate(parts):
            is_first, is_last = index == 0, index == len(parts) - 1
            yield PoolChange(self.pool, self.block_size, self.is_cleared and is_first, new, old, not is_last)

    def runs(self) -> Iterator[Sequence[Publication]]:
        """What is stored, as blocks that continue each other; all or none of a run are salted or have tokens.

        Cache groups come one after the other.
        """
        stored = sorted(map(Publication._make, self.stored), key=_group)
        start = 0
        for index in range(1, len(stored) + 1):
            if index == len(stored) or not _continues(stored[index - 1], stored[index]):
                yield stored[start:index]
                start = index

    def evicted(self) -> list[list[Publication]]:
        """What is removed, by cache group."""
        removed: dict[int, list[Publication]] = {}
        for publication in map(Publication._make, self.removed):
            removed.setdefault(publication.group, []).append(publication)
        return list(removed.values())


def _continues(first: Publication, second: Publication) -> bool:
    return second.parent == first.name and first.is_salted == second.is_salted and first.tokens is not None
