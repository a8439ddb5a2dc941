"""What prefix reuse has saved, in tokens."""

from dataclasses import dataclass


@dataclass(slots=True)
class CacheStatistics:
    """Counts since the pool was opened.

    Attributes:
        num_context_tokens: of all sequences at their starts.
        num_reused_tokens: of these, found in whole cached blocks.
        num_copied_tokens: of these, found in part of a block, which was copied.
        num_recomputed_tokens: computed again, of sequences that go on: behind a pause, or on from another executor or
            scheduler.
    """

    num_context_tokens: int = 0
    num_reused_tokens: int = 0
    num_copied_tokens: int = 0
    num_recomputed_tokens: int = 0
