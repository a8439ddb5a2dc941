"""FIRST_COME_FIRST_SERVED: one context after the other."""

from collections.abc import Sequence as List

from quire.engine.scheduling.micro_batch.base import MicroBatchScheduler
from quire.engine.sequence import Sequence


class FirstComeFirstServed(MicroBatchScheduler):
    """Gives all to the first sequence until its context is complete.

    Source: TensorRT-LLM's chunking policy of this name.
    """

    def ends(self, budget: int, sequences: List[Sequence]) -> list[int]:
        found = []
        for sequence in sequences:
            end = self.end(sequence, sequence.num_scheduled, budget)
            budget -= end - sequence.num_scheduled
            found.append(end)
        return found
