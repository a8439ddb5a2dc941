"""KV blocks as a resource: block tables, prefix reuse, publication."""

from quire.engine.resources.base import ResourceManager
from quire.engine.resources.block_pool import BlockPool
from quire.engine.resources.prefix import extend_chain
from quire.engine.scheduling.scheduled_step import ScheduledStep
from quire.engine.scheduling.sequence import Sequence


class KVCacheManager(ResourceManager):
    """Gives each sequence the blocks for the positions it computes, and finds those already computed.

        tokens     ├─ cached ─┼──── computed here ────┤
        blocks     [ shared ] [ own, full ] [ own, filling ]
                                 └ published when the result of its last position is in

    Args:
        pool: the mirror to take blocks from.
        block_size: tokens per block.
        root: parent hash of first blocks, see `chain_root`.
    """

    def __init__(self, pool: BlockPool, block_size: int, root: bytes) -> None:
        self._pool = pool
        self._block_size = block_size
        self._root = root
        self._num_promised = 0

    @property
    def pool(self) -> BlockPool:
        return self._pool

    @property
    def num_promised(self) -> int:
        """Blocks that started sequences will still take if each runs to its `max_len`."""
        return self._num_promised

    def num_to_completion(self, sequence: Sequence) -> int:
        """Blocks that the sequence holds in the end; the last token sampled needs no KV."""
        return -(-(sequence.max_len - 1) // self._block_size)

    def match(self, sequence: Sequence) -> list[int]:
        """Blocks of the longest cached prefix; at least one token is left to compute."""
        num_full = (len(sequence.tokens) - 1) // self._block_size
        extend_chain(sequence.hashes, self._root, sequence.tokens, num_full, self._block_size)
        found = []
        for name in sequence.hashes[:num_full]:
            block = self._pool.find(name)
            if block is None:
                break
            found.append(block)
        return found

    def has_room(self, sequence: Sequence) -> bool:
        return self._pool.num_available > 0

    def start(self, sequence: Sequence) -> None:
        """Shares the cached prefix with a sequence about to run; its first chunk begins behind it."""
        for block in self.match(sequence):
            self._pool.share(sequence.holder, block)
            sequence.blocks.append(block)
        sequence.num_published = len(sequence.blocks)
        sequence.num_scheduled = len(sequence.blocks) * self._block_size
        if len(sequence.tokens) == sequence.num_prompt:
            sequence.num_cached = sequence.num_scheduled
        self._num_promised += self.num_to_completion(sequence) - len(sequence.blocks)

    def prepare_resources(self, step: ScheduledStep) -> None:
        starting = set(map(id, step.starts))
        for chunk in step.chunks:
            blocks = self._grow(chunk.sequence, -(-chunk.end // self._block_size))
            if id(chunk.sequence) not in starting:
                step.appended.extend((chunk.sequence.slot, block) for block in blocks)
        for sequence in step.growing:
            blocks = self._grow(sequence, len(sequence.blocks) + 1)
            step.appended.extend((sequence.slot, block) for block in blocks)

    def update_resources(self, step: ScheduledStep) -> None:
        for sequence, num_computed in step.filled:
            num_full = num_computed // self._block_size
            extend_chain(sequence.hashes, self._root, sequence.tokens, num_full, self._block_size)
            for i in range(sequence.num_published, num_full):
                self._pool.publish(sequence.blocks[i], sequence.hashes[i])
            sequence.num_published = max(sequence.num_published, num_full)

    def free_resources(self, sequence: Sequence) -> None:
        # Tail first, so that eviction takes the leaves of the prefix tree before their parents.
        self._num_promised -= self.num_to_completion(sequence) - len(sequence.blocks) if sequence.blocks else 0
        self._pool.release(sequence.holder, reversed(sequence.blocks))
        sequence.blocks = []

    def _grow(self, sequence: Sequence, num_blocks: int) -> list[int]:
        count = num_blocks - len(sequence.blocks)
        taken = [self._pool.acquire(sequence.holder) for _ in range(count)]
        sequence.blocks.extend(taken)
        self._num_promised -= len(taken)
        return taken
