"""A KV cache manager whose eviction spares what several requests have in common."""

from collections.abc import Sequence as List
from dataclasses import replace

from quire.engine.resources.block_pool import Keep
from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.sequence import Sequence

# Requests may ask for 0 to 100; blocks that nobody asks for have 35.
PRIORITY = 90


class KeepSystemPrompts(KVCacheManager):
    """Keeps blocks that a request found in the cache longer than those that were used once."""

    def retention(self, sequence: Sequence) -> List[Keep]:
        num_shared = sequence.num_cached // self.block_size
        return [
            replace(keep, priority=max(keep.priority, PRIORITY)) if index < num_shared else keep
            for index, keep in enumerate(super().retention(sequence))
        ]
