"""KV blocks as a resource: block tables, prefix reuse, publication."""

from collections.abc import Sequence as List
from dataclasses import dataclass
from typing import ClassVar

from quire.engine.resources.base import ResourceManager
from quire.engine.resources.block_pool import BlockPool, Keep, unix_ms
from quire.engine.resources.eviction import EvictionOrder
from quire.engine.resources.prefix import chain_root, extend_chain
from quire.engine.resources.publication import Entry
from quire.engine.resources.retention import block_retention
from quire.engine.scheduled_step import ScheduledStep
from quire.engine.sequence import Sequence


@dataclass(slots=True)
class CacheStatistics:
    """Counts since the pool was opened.

    Attributes:
        num_context_tokens: of all sequences at their starts.
        num_reused_tokens: of these, found in whole cached blocks.
        num_copied_tokens: of these, found in part of a block, which was copied.
    """

    num_context_tokens: int = 0
    num_reused_tokens: int = 0
    num_copied_tokens: int = 0


class KVCacheManager(ResourceManager):
    """Gives each sequence the blocks for the positions it computes, and finds those already computed.

        tokens     ├─ cached ─┼─ agrees ─┼──── computed here ────┤
        blocks     [ shared ] [ copied … and filled ] [ own, filling ]
                                 └ published when the result of its last position is in

    Args:
        pool: the mirror to take blocks from.
        block_size: tokens per block.
        fingerprint: of the model; blocks of different models never share a hash.

    A subclass may replace `match`, what is found in the cache; `retention`, how long what is left stays there; and
    `eviction_order`, the class that says which cached block goes next.
    """

    eviction_order: ClassVar[type[EvictionOrder]] = EvictionOrder

    def __init__(self, pool: BlockPool, block_size: int, fingerprint: str) -> None:
        self._pool = pool
        self._block_size = block_size
        self._fingerprint = fingerprint
        self._num_promised = 0
        # Hash of a block of a started context, until it is published → who computes it.
        self._computing: dict[bytes, Sequence] = {}
        self._copies: list[tuple[int, int]] = []
        self.statistics = CacheStatistics()

    @property
    def pool(self) -> BlockPool:
        return self._pool

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def num_unpromised(self) -> int:
        """Blocks that can be acquired now and are not set aside for a started sequence."""
        return self._pool.num_available - self._num_promised

    def num_blocks(self, num_tokens: int) -> int:
        """Number of blocks for the KV of `num_tokens` tokens."""
        return -(-num_tokens // self._block_size)

    def num_to_completion(self, sequence: Sequence) -> int:
        """Blocks that the sequence holds in the end; the last token sampled needs no KV."""
        return self.num_blocks(sequence.max_len - 1)

    def match(self, sequence: Sequence) -> list[int]:
        """Blocks of the longest cached prefix; at least one token is left to compute."""
        if not sequence.reuses_cache:
            return []
        num_full = (len(sequence.tokens) - 1) // self._block_size
        self._name(sequence, num_full)
        found = []
        for name in sequence.hashes[:num_full]:
            block = self._pool.find(name)
            if block is None:
                break
            found.append(block)
        return found

    def awaits(self, sequence: Sequence, num_matched: int) -> bool:
        """Whether the block behind the `num_matched` cached ones is being computed for another sequence."""
        if not sequence.reuses_cache or num_matched >= (len(sequence.tokens) - 1) // self._block_size:
            return False
        return sequence.hashes[num_matched] in self._computing

    def retention(self, sequence: Sequence) -> List[Keep]:
        """How each block of a sequence that lets go is kept, in the order of its block table."""
        ranges = sequence.request.options.cache.retention
        return block_retention(ranges, len(sequence.blocks), self._block_size, unix_ms())

    def start(self, sequence: Sequence) -> None:
        """Shares the cached prefix with a sequence about to run; its first chunk begins behind it.

        `num_reserved` of the sequence must be set; it is the number of blocks set aside for the sequence.
        """
        for block in self.match(sequence):
            self._pool.share(sequence.holder, block)
            sequence.blocks.append(block)
            if not self._pool.is_described(block):
                self._pool.describe(self._entry(sequence, len(sequence.blocks) - 1))
        num_reused = len(sequence.blocks) * self._block_size
        num_copied = self._copy_partial(sequence)
        sequence.num_published = num_reused // self._block_size
        sequence.num_scheduled = num_reused + num_copied
        if not sequence.was_started:
            sequence.num_cached = min(sequence.num_scheduled, sequence.num_prompt)
        self._announce(sequence)
        self._num_promised += max(0, sequence.num_reserved - len(sequence.blocks))
        self.statistics.num_context_tokens += sequence.num_context
        self.statistics.num_reused_tokens += num_reused
        self.statistics.num_copied_tokens += num_copied

    def prepare_resources(self, step: ScheduledStep) -> None:
        step.copies, self._copies = self._copies, []
        starting = set(step.starts)
        for chunk in step.chunks:
            blocks = self._grow(chunk.sequence, self.num_blocks(chunk.end))
            if chunk.sequence not in starting:
                step.appended.extend((chunk.sequence.slot, block) for block in blocks)
        for sequence in step.growing:
            blocks = self._grow(sequence, len(sequence.blocks) + 1)
            step.appended.extend((sequence.slot, block) for block in blocks)

    def update_resources(self, step: ScheduledStep) -> None:
        for sequence, num_computed in step.filled:
            if sequence.request.options.cache.opt_out:
                continue
            num_full = num_computed // self._block_size
            self._name(sequence, num_full)
            for index in range(sequence.num_published, num_full):
                self._publish(sequence, index)
            sequence.num_published = max(sequence.num_published, num_full)

    def free_resources(self, sequence: Sequence) -> None:
        for name in sequence.hashes[sequence.num_published :]:
            self._withdraw(sequence, name)
        if not sequence.blocks:
            return
        self._num_promised -= max(0, sequence.num_reserved - len(sequence.blocks))
        kept = self.retention(sequence)
        # Tail first, so that eviction takes the leaves of the prefix tree before their parents.
        self._pool.release(sequence.holder, zip(reversed(sequence.blocks), reversed(kept), strict=True))
        sequence.blocks = []

    def _name(self, sequence: Sequence, num_blocks: int) -> None:
        root = self._root(sequence) if not sequence.hashes else b""
        extend_chain(sequence.hashes, root, sequence.tokens, num_blocks, self._block_size)

    def _root(self, sequence: Sequence) -> bytes:
        return chain_root(self._fingerprint, cache_salt=sequence.request.options.cache.salt)

    def _copy_partial(self, sequence: Sequence) -> int:
        """Copies the block that agrees with the next tokens in part, if there is one.

        The executor copies before it computes, and no step writes a published block: the source may be given away in
        the same step.
        """
        if not sequence.reuses_cache:
            return 0
        num_matched = len(sequence.blocks)
        parent = sequence.hashes[num_matched - 1] if num_matched else self._root(sequence)
        begin = num_matched * self._block_size
        rest = sequence.tokens[begin : min(begin + self._block_size, len(sequence.tokens) - 1)]
        found = self._pool.find_partial(parent, rest)
        if found is None:
            return 0
        source, count = found
        sequence.blocks.append(self._pool.acquire(sequence.holder))
        self._copies.append((source, sequence.blocks[-1]))
        return count

    def _grow(self, sequence: Sequence, num_blocks: int) -> list[int]:
        before = len(sequence.blocks)
        taken = [self._pool.acquire(sequence.holder) for _ in range(num_blocks - before)]
        sequence.blocks.extend(taken)
        left = sequence.num_reserved
        self._num_promised += max(0, left - len(sequence.blocks)) - max(0, left - before)
        return taken

    def _announce(self, sequence: Sequence) -> None:
        """Others that need the blocks of this context wait for them rather than compute them too."""
        if not sequence.request.options.cache.opt_out:
            for name in sequence.hashes[sequence.num_published :]:
                self._computing.setdefault(name, sequence)

    def _withdraw(self, sequence: Sequence, name: bytes) -> None:
        if self._computing.get(name) is sequence:
            del self._computing[name]

    def _publish(self, sequence: Sequence, index: int) -> None:
        self._pool.publish(self._entry(sequence, index))
        self._withdraw(sequence, sequence.hashes[index])

    def _entry(self, sequence: Sequence, index: int) -> Entry:
        begin = index * self._block_size
        parent = sequence.hashes[index - 1] if index else self._root(sequence)
        tokens = sequence.tokens[begin : begin + self._block_size]
        is_salted = bool(sequence.request.options.cache.salt)
        return sequence.blocks[index], sequence.hashes[index], parent, tokens, index, is_salted
