"""What a scheduler proposes to the ledger in one step."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class LedgerTransaction:
    """Changes to one pool, applied all or nothing in the order of the fields.

    Attributes:
        publish: (block, hash): the held block's KV is complete and may be found by its hash.
        release: (holder, block, rank): the holder lets go. The last one to do so leaves the block cached if it
            is published, ranked by `rank` (lowest is evicted first), else free.
        evict: cached blocks that lose their hash and become free.
        share: (holder, block): one more holder of a published block.
        acquire: (holder, block): a free block gets its only holder.
    """

    publish: list[tuple[int, bytes]] = field(default_factory=list)
    release: list[tuple[str, int, int]] = field(default_factory=list)
    evict: list[int] = field(default_factory=list)
    share: list[tuple[str, int]] = field(default_factory=list)
    acquire: list[tuple[str, int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.publish or self.release or self.evict or self.share or self.acquire)
