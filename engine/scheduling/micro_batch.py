"""Who runs in a step: the token budget, shared between generation and context."""

from collections.abc import Iterable

from quire.engine.scheduling.scheduled_step import ContextChunk
from quire.engine.scheduling.sequence import Sequence


class MicroBatchScheduler:
    """Fills a step: generation first, so that decoding never starves behind prompts, then context in chunks.

    Args:
        max_num_tokens: budget of one step.
        block_size: chunks end on block boundaries where the budget allows it.
    """

    def __init__(self, max_num_tokens: int, block_size: int) -> None:
        self._max_num_tokens = max_num_tokens
        self._block_size = block_size

    def budget(self, num_generating: int) -> int:
        """Tokens left for context beside so many generating sequences."""
        return max(0, self._max_num_tokens - num_generating)

    def chunks(self, budget: int, sequences: Iterable[Sequence]) -> list[ContextChunk]:
        """Chunks of the sequences' contexts, first come first served, within the budget."""
        chunks = []
        for sequence in sequences:
            if budget <= 0:
                break
            start = sequence.num_scheduled
            end = start + self._size(start, sequence.num_context_left, budget)
            chunks.append(ContextChunk(sequence, start, end))
            budget -= end - start
        return chunks

    def _size(self, start: int, left: int, budget: int) -> int:
        if left <= budget:
            return left
        # A chunk that ends inside a block would leave the block to be finished by a later step; but a budget
        # smaller than a block must still make progress.
        return budget - (start + budget) % self._block_size if budget > self._block_size else budget
