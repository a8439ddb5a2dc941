"""Who runs in a step: the token budget, shared between generation and context."""

from collections.abc import Sequence as List
from typing import Literal

from quire.engine.scheduled_step import ContextChunk
from quire.engine.scheduling.chunk_budget import ChunkBudget
from quire.engine.sequence import Sequence

Chunking = Literal["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"]


class MicroBatchScheduler:
    """Fills a step: generation first, so that decoding never starves behind prompts, then context in chunks.

    Args:
        max_num_tokens: budget of one step.
        block_size: chunks end on block boundaries where the budget allows it.
        chunking: FIRST_COME_FIRST_SERVED gives all to the first sequence until its context is complete;
            EQUAL_PROGRESS gives every sequence a block in turn. Source: TensorRT-LLM's policies of these names.
        chunk_budget: limits context beside generation.
    """

    def __init__(self, max_num_tokens: int, block_size: int, chunking: Chunking, chunk_budget: ChunkBudget) -> None:
        self._max_num_tokens = max_num_tokens
        self._block_size = block_size
        self._chunking = chunking
        self._chunk_budget = chunk_budget

    def budget(self, num_generating: int, backlog: int) -> int:
        """Tokens left for context beside `num_generating` sequences, where `backlog` tokens wait."""
        return self._chunk_budget.limit(max(0, self._max_num_tokens - num_generating), num_generating, backlog)

    def chunks(self, budget: int, sequences: List[Sequence]) -> list[ContextChunk]:
        """Chunks of the sequences' contexts within the budget; a sequence that gets nothing has none."""
        if self._chunking == "EQUAL_PROGRESS":
            ends = self._share_equally(budget, sequences)
        else:
            ends = self._share_in_order(budget, sequences)
        return [
            ContextChunk(sequence, sequence.num_scheduled, end)
            for sequence, end in zip(sequences, ends, strict=True)
            if end > sequence.num_scheduled
        ]

    def observe(self, num_context: int, num_generating: int, compute_us: int) -> None:
        """Learns from a step's composition and its measured time in microseconds."""
        self._chunk_budget.observe(num_context, num_generating, compute_us)

    def _share_in_order(self, budget: int, sequences: List[Sequence]) -> list[int]:
        ends = []
        for sequence in sequences:
            end = self._end(sequence, sequence.num_scheduled, budget)
            budget -= end - sequence.num_scheduled
            ends.append(end)
        return ends

    def _share_equally(self, budget: int, sequences: List[Sequence]) -> list[int]:
        ends = [sequence.num_scheduled for sequence in sequences]
        open_ends = list(range(len(sequences)))
        while budget > 0 and open_ends:
            for i in list(open_ends):
                sequence, start = sequences[i], ends[i]
                boundary = self._block_size - start % self._block_size
                ends[i] = self._end(sequence, start, min(budget, boundary))
                budget -= ends[i] - start
                if ends[i] == sequence.num_context or ends[i] == start:
                    open_ends.remove(i)
        return ends

    def _end(self, sequence: Sequence, start: int, budget: int) -> int:
        """Where a chunk from `start` ends: at the context's end, or on a block boundary, or after the budget."""
        if sequence.num_context - start <= budget:
            return sequence.num_context
        # A chunk that ends inside a block leaves the block to a later step. A budget smaller than a block must still
        # make progress.
        aligned = (start + budget) // self._block_size * self._block_size
        return aligned if aligned > start else start + max(0, budget)
