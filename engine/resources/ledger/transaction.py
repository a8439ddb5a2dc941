"""What a scheduler proposes to the ledger in one step."""

from dataclasses import dataclass, field

from quire.engine.resources.publication import Entry


@dataclass(slots=True)
class LedgerTransaction:
    """Changes to one pool, applied all or nothing in the order of the fields.

    A holder is any name that is not empty and has neither comma nor bar. A dot and the number of a cache group end it,
    but in the first group.

    Attributes:
        publish: the held block's KV is complete and may be found by its hash. The ledger keeps block and hash alone.
        release: (holder, block, rank, expires): the holder lets go. The last one to do so leaves the block cached
            if it is published, ranked by `rank` (lowest is evicted first), else free. From `expires` on, in
            milliseconds since 1970, its retention priority is void; 0: never.
        evict: cached blocks that lose their hash and become free.
        share: (holder, block): one more holder of a published block, of the cache group that its hash says.
        acquire: (holder, block): a free block gets its only holder.
        step: number of the plan that leaves once this is applied; 0: none does. It is kept with the pool, so that
            books from before what the executor has run (Redis may lose its last second) are not believed.
        described: published blocks of which more is known now; nothing that the ledger keeps.
    """

    publish: list[Entry] = field(default_factory=list)
    release: list[tuple[str, int, int, int]] = field(default_factory=list)
    evict: list[int] = field(default_factory=list)
    share: list[tuple[str, int]] = field(default_factory=list)
    acquire: list[tuple[str, int]] = field(default_factory=list)
    step: int = 0
    described: list[Entry] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether it changes any block."""
        return bool(self.publish or self.release or self.evict or self.share or self.acquire)
