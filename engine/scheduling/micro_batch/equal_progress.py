"""EQUAL_PROGRESS: all contexts at one pace."""

from collections.abc import Sequence as List

from quire.engine.scheduling.micro_batch.base import MicroBatchScheduler
from quire.engine.sequence import Sequence


class EqualProgress(MicroBatchScheduler):
    """Gives every sequence a block in turn.

    Source: TensorRT-LLM's chunking policy of this name.
    """

    def ends(self, budget: int, sequences: List[Sequence]) -> list[int]:
        found = [sequence.num_scheduled for sequence in sequences]
        unfinished = list(range(len(sequences)))
        while budget > 0 and unfinished:
            for i in list(unfinished):
                sequence, start = sequences[i], found[i]
                boundary = self.block_size - start % self.block_size
                found[i] = self.end(sequence, start, min(budget, boundary))
                budget -= found[i] - start
                if found[i] == sequence.num_context or found[i] == start:
                    unfinished.remove(i)
        return found
