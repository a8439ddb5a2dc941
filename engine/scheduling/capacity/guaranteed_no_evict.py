"""GUARANTEED_NO_EVICT: what starts, finishes."""

from quire.engine.scheduling.capacity.base import CapacityScheduler
from quire.engine.sequence import Sequence


class GuaranteedNoEvict(CapacityScheduler):
    """A started sequence is never paused: its blocks to completion are set aside.

    Source: TensorRT-LLM's policy of this name.
    """

    def reservation(self, sequence: Sequence) -> int:
        return self.kv.num_to_completion(sequence)
