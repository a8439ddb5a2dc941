"""The interface of micro-batch policies."""

from abc import ABC, abstractmethod
from collections.abc import Sequence as List

from quire.engine.scheduled_step import ContextChunk
from quire.engine.scheduling.chunk_budget import ChunkBudget
from quire.engine.sequence import Sequence


class MicroBatchScheduler(ABC):
    """Fills a step: generation first, so that decoding never starves behind prompts, then context in chunks.

    For each step the scheduler calls `budget`, starts sequences while the budget lasts, and then calls `chunks`.
    A plug-in is a subclass with the same constructor.

    Args:
        max_num_tokens: budget of one step.
        block_size: chunks end on block boundaries where the budget allows it.
        chunk_budget: limits context beside generation.
    """

    def __init__(self, max_num_tokens: int, block_size: int, chunk_budget: ChunkBudget) -> None:
        self.max_num_tokens = max_num_tokens
        self.block_size = block_size
        self.chunk_budget = chunk_budget

    @abstractmethod
    def ends(self, budget: int, sequences: List[Sequence]) -> list[int]:
        """Where each sequence's chunk ends.

        Args:
            budget: tokens that the chunks may have together.
            sequences: those with context left, in the order of their starts.

        Returns:
            For each sequence a position from `num_scheduled`, which gives it nothing, to `num_context`.
        """

    def budget(self, num_generating: int, backlog: int) -> int:
        """Tokens left for context beside `num_generating` sequences, where `backlog` tokens wait."""
        return self.chunk_budget.limit(max(0, self.max_num_tokens - num_generating), num_generating, backlog)

    def observe(self, num_context: int, num_generating: int, compute_us: int) -> None:
        """Learns from a step's composition and its measured time in microseconds."""
        self.chunk_budget.observe(num_context, num_generating, compute_us)

    def chunks(self, budget: int, sequences: List[Sequence]) -> list[ContextChunk]:
        """Chunks of the sequences' contexts within the budget; a sequence that gets nothing has none."""
        return [
            ContextChunk(sequence, sequence.num_scheduled, end)
            for sequence, end in zip(sequences, self.ends(budget, sequences), strict=True)
            if end != sequence.num_scheduled
        ]

    def end(self, sequence: Sequence, start: int, budget: int) -> int:
        """Where a chunk from `start` ends: at the context's end, or on a block boundary, or after the budget."""
        if sequence.num_context - start <= budget:
            return sequence.num_context
        # A chunk that ends inside a block leaves the block to a later step. A budget smaller than a block must still
        # make progress.
        aligned = (start + budget) // self.block_size * self.block_size
        return aligned if aligned > start else start + max(0, budget)
