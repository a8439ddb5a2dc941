"""KV blocks as a resource: block tables, prefix reuse, publication."""

from collections import Counter
from collections.abc import Sequence as List
from typing import ClassVar

from quire.engine.api.kv_cache_group import WHOLE, KVCacheGroup, blocks_for
from quire.engine.block_table import GONE, BlockTable
from quire.engine.resources.base import ResourceManager
from quire.engine.resources.block_pool import BlockPool, Keep, unix_ms
from quire.engine.resources.cache_statistics import CacheStatistics
from quire.engine.resources.eviction import EvictionOrder
from quire.engine.resources.holder import holder_in, split_holder
from quire.engine.resources.prefix import chain_root, extend_chain, in_group
from quire.engine.resources.prefix_hit import longest_hit
from quire.engine.resources.promises import Promises
from quire.engine.resources.publication import Entry
from quire.engine.resources.retention import block_retention
from quire.engine.scheduled_step import ScheduledStep
from quire.engine.sequence import Sequence


class KVCacheManager(ResourceManager):
    """Gives each sequence the blocks for the positions it computes, and finds those already computed.

        tokens     ├─ cached ─┼─ agrees ─┼──── computed here ────┤
        blocks     [ shared ] [ copied … and filled ] [ own, filling ]
                                 └ published when the result of its last position is in

    A sequence has a block table in each cache group, all equally long. What falls out of a group's window is let go
    with the result behind which no step reads it, those in flight included.

    Args:
        pool: the mirror to take blocks from.
        block_size: tokens per block.
        fingerprint: of the model; blocks of different models never share a hash.
        groups: of the model's layers.

    A subclass may replace `match`, what is found in the cache; `retention`, how long what is left stays there; and
    `eviction_order`, the class that says which cached block goes next.
    """

    eviction_order: ClassVar[type[EvictionOrder]] = EvictionOrder

    def __init__(
        self, pool: BlockPool, block_size: int, fingerprint: str, groups: tuple[KVCacheGroup, ...] = WHOLE
    ) -> None:
        self._pool = pool
        self._block_size = block_size
        self._fingerprint = fingerprint
        self._groups = groups
        self._num_whole = sum(group.window is None for group in groups)
        self._promises = Promises(pool)
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
    def groups(self) -> tuple[KVCacheGroup, ...]:
        """Each has a block table in every sequence."""
        return self._groups

    @property
    def num_whole_groups(self) -> int:
        """Groups without a window: in these a sequence grows to its end, in others until its window is full."""
        return self._num_whole

    @property
    def has_windows(self) -> bool:
        """Whether a sequence lets blocks go while it runs."""
        return self._num_whole < len(self._groups)

    @property
    def num_unpromised(self) -> int:
        """Blocks that can be acquired now and are not set aside for a started sequence."""
        return self._pool.num_available - self._promises.total

    def num_blocks(self, num_tokens: int) -> int:
        """Number of blocks, of all groups together, for the KV of `num_tokens` tokens."""
        return blocks_for(self._groups, num_tokens, self._block_size)

    def num_to_completion(self, sequence: Sequence) -> int:
        """Blocks that the sequence holds in the end; the last token sampled needs no KV."""
        return self.num_blocks(sequence.max_len - 1)

    def num_to_generate(self, sequence: Sequence) -> int:
        """Blocks for its context and its next token, with those that its windows will take: all but its growth."""
        end = sequence.max_len - 1
        tokens = (end if group.window is not None else min(sequence.num_context + 1, end) for group in self._groups)
        each = zip(self._groups, tokens, strict=True)
        return sum(group.num_blocks(num_tokens, self._block_size) for group, num_tokens in each)

    def num_needed(self, sequence: Sequence, num_reserved: int) -> int:
        """Unpromised blocks that a waiting sequence takes if so many are set aside for it.

        What others hold of its prefix need not be there once more, but in a window: these blocks are let go, and others
        take their place. To share a block that no sequence holds makes one less available.
        """
        is_cached = self._pool.is_cached
        for group, blocks in zip(self._groups, self.match(sequence), strict=True):
            if group.window is None:
                num_reserved -= len(blocks) - sum(map(is_cached, blocks))
        return num_reserved

    def sole_holders(self, sequence: Sequence) -> Counter[str]:
        """Who alone holds blocks of a waiting sequence's prefix, and how many: once it shares them, they do not become
        available with that holder's end.
        """
        holders = (self._pool.sole_holder(block) for blocks in self.match(sequence) for block in blocks)
        return Counter(split_holder(holder)[0] for holder in holders if holder is not None)

    def num_sole(self, sequence: Sequence) -> int:
        """Blocks that become available when the sequence ends, as no other has ever shared them."""
        if len(self._groups) == 1:
            return self._pool.num_sole(sequence.holder)
        return sum(self._pool.num_sole(table.holder) for table in sequence.tables)

    def match(self, sequence: Sequence) -> list[list[int]]:
        """Blocks of the longest cached prefix: a table for each group; at least one token is left to compute."""
        if not sequence.reuses_cache:
            return [[] for _ in self._groups]
        num_full = (len(sequence.tokens) - 1) // self._block_size
        self._name(sequence, num_full)
        return longest_hit(self._groups, sequence.hashes[:num_full], self._block_size, self._pool.find)

    def awaits(self, sequence: Sequence, num_matched: int) -> bool:
        """Whether the block behind the `num_matched` cached ones is being computed for another sequence."""
        if not sequence.reuses_cache or num_matched >= (len(sequence.tokens) - 1) // self._block_size:
            return False
        return sequence.hashes[num_matched] in self._computing

    def retention(self, sequence: Sequence) -> List[Keep]:
        """How each block of a sequence that lets go is kept, in the order of its block tables."""
        ranges = sequence.request.options.cache.retention
        return block_retention(ranges, sequence.num_blocks, self._block_size, unix_ms())

    def start(self, sequence: Sequence) -> None:
        """Shares the cached prefix with a sequence about to run; its first chunk begins behind it.

        `num_reserved` of the sequence must be set; it is the number of blocks set aside for the sequence.
        """
        sequence.tables = [self._share(sequence, index, blocks) for index, blocks in enumerate(self.match(sequence))]
        num_reused = sequence.num_blocks * self._block_size
        num_copied = self._copy_partial(sequence)
        sequence.num_published = num_reused // self._block_size
        sequence.num_scheduled = num_reused + num_copied
        if not sequence.was_started:
            sequence.num_cached = min(sequence.num_scheduled, sequence.num_prompt)
        self._announce(sequence)
        self._promises.begin(sequence)
        self.statistics.num_context_tokens += sequence.num_context
        self.statistics.num_reused_tokens += num_reused
        self.statistics.num_copied_tokens += num_copied
        if sequence.was_started or len(sequence.request.generated):
            self.statistics.num_recomputed_tokens += sequence.num_context - sequence.num_scheduled

    def prepare_resources(self, step: ScheduledStep) -> None:
        step.copies, self._copies = self._copies, []
        starting = set(step.starts)
        for chunk in step.chunks:
            sequence, end = chunk.sequence, -(-chunk.end // self._block_size)
            appended = [self._grow(sequence) for _ in range(end - sequence.num_blocks)]
            if sequence not in starting:
                step.appended.extend(appended)
        step.appended.extend(map(self._grow, step.growing))

    def update_resources(self, step: ScheduledStep) -> None:
        for sequence, num_computed in step.filled:
            if not sequence.request.options.cache.opt_out:
                self._publish(sequence, num_computed // self._block_size)
            if self.has_windows:
                self._let_go(sequence, num_computed)

    def free_resources(self, sequence: Sequence) -> None:
        for name in sequence.hashes[sequence.num_published :]:
            self._withdraw(sequence, name)
        if not sequence.tables:
            return
        self._promises.end(sequence)
        kept = self.retention(sequence)
        for group, table in zip(self._groups, sequence.tables, strict=True):
            if group.window is not None:
                self._promises.unshare(table.held)
            # Tail first, so that eviction takes the leaves of the prefix tree before their parents.
            held = zip(reversed(table.held), reversed(kept[table.num_gone :]), strict=True)
            self._pool.release(table.holder, held)
        sequence.tables = []
        sequence.hashes.clear()

    def _name(self, sequence: Sequence, num_blocks: int) -> None:
        root = self._root(sequence) if not sequence.hashes else b""
        extend_chain(sequence.hashes, root, sequence.tokens, num_blocks, self._block_size)

    def _root(self, sequence: Sequence) -> bytes:
        request = sequence.request
        adapter = "" if request.adapter is None else request.adapter.digest
        return chain_root(self._fingerprint, adapter, request.options.cache.salt)

    def _share(self, sequence: Sequence, group: int, blocks: list[int]) -> BlockTable:
        num_gone = self._groups[group].first_seen(len(blocks) * self._block_size, self._block_size)
        table = BlockTable(holder_in(sequence.holder, group), blocks, num_gone)
        if self._groups[group].window is not None:
            self._promises.share(table.held)
        for index in range(num_gone, len(blocks)):
            self._pool.share(table.holder, blocks[index])
            if not self._pool.is_described(blocks[index]):
                self._pool.describe(self._entry(sequence, group, index, blocks[index]))
        return table

    def _copy_partial(self, sequence: Sequence) -> int:
        """Copies the block that agrees with the next tokens in part, if there is one in every group.

        The executor copies before it computes, and no step writes a published block: the source may be given away in
        the same step.
        """
        if not sequence.reuses_cache:
            return 0
        num_matched = sequence.num_blocks
        parent = sequence.hashes[num_matched - 1] if num_matched else self._root(sequence)
        begin = num_matched * self._block_size
        rest = sequence.tokens[begin : min(begin + self._block_size, len(sequence.tokens) - 1)]
        found = [self._pool.find_partial(in_group(parent, group), rest) for group in range(len(self._groups))]
        sources = [each for each in found if each is not None]
        if len(sources) < len(found):
            return 0
        for table, (source, _) in zip(sequence.tables, sources, strict=True):
            table.blocks.append(self._pool.acquire(table.holder))
            self._copies.append((source, table.blocks[-1]))
        return min(count for _, count in sources)

    def _grow(self, sequence: Sequence) -> list[int]:
        """Makes each block table longer by one; the sequence's slot, and the blocks."""
        appended = [sequence.slot]
        for table in sequence.tables:
            block = self._pool.acquire(table.holder)
            table.blocks.append(block)
            appended.append(block)
        self._promises.change(sequence, len(sequence.tables))
        return appended

    def _let_go(self, sequence: Sequence, num_computed: int) -> None:
        """Releases what no query at `num_computed` or behind sees; all of it was computed before."""
        kept = self.retention(sequence)
        for group, table in zip(self._groups, sequence.tables, strict=True):
            begin, end = table.num_gone, group.first_seen(num_computed, self._block_size)
            if begin >= end:
                continue
            blocks = table.blocks[begin:end]
            self._promises.unshare(blocks)
            self._pool.release(table.holder, zip(blocks, kept[begin:end], strict=True))
            table.blocks[begin:end] = [GONE] * len(blocks)
            table.num_gone = end
            self._promises.change(sequence, -len(blocks))

    def _announce(self, sequence: Sequence) -> None:
        """Others that need the blocks of this context wait for them rather than compute them too."""
        if not sequence.request.options.cache.opt_out:
            for name in sequence.hashes[sequence.num_published :]:
                self._computing.setdefault(name, sequence)

    def _withdraw(self, sequence: Sequence, name: bytes) -> None:
        if self._computing.get(name) is sequence:
            del self._computing[name]

    def _publish(self, sequence: Sequence, num_full: int) -> None:
        self._name(sequence, num_full)
        for index in range(sequence.num_published, num_full):
            for group, table in enumerate(sequence.tables):
                self._pool.publish(self._entry(sequence, group, index, table.blocks[index]))
            self._withdraw(sequence, sequence.hashes[index])
        sequence.num_published = max(sequence.num_published, num_full)

    def _entry(self, sequence: Sequence, group: int, index: int, block: int) -> Entry:
        begin = index * self._block_size
        parent = sequence.hashes[index - 1] if index else self._root(sequence)
        tokens = sequence.tokens[begin : begin + self._block_size]
        request = sequence.request
        is_salted = bool(request.options.cache.salt) or request.adapter is not None
        name = sequence.hashes[index]
        if group:
            name, parent = in_group(name, group), in_group(parent, group)
        return block, name, parent, tokens, index, is_salted
