"""A micro-batch policy that computes the newest context first."""

from collections.abc import Sequence as List

from quire.engine.scheduling.micro_batch.base import MicroBatchScheduler
from quire.engine.sequence import Sequence


class LastComeFirstServed(MicroBatchScheduler):
    """Gives what a step has left for context to the sequence that started last."""

    def ends(self, budget: int, sequences: List[Sequence]) -> list[int]:
        found = []
        for sequence in reversed(sequences):
            end = self.end(sequence, sequence.num_scheduled, budget)
            budget -= end - sequence.num_scheduled
            found.append(end)
        return found[::-1]
