"""STATIC_BATCH: one batch after the other."""

from quire.engine.scheduling.capacity.guaranteed_no_evict import GuaranteedNoEvict
from quire.engine.scheduling.sequence import Sequence


class StaticBatch(GuaranteedNoEvict):
    """Sequences start only in a step that begins with nothing running; the next batch waits for the last of them.

    Source: TensorRT-LLM's policy of this name.
    """

    def fits(self, sequence: Sequence) -> bool:
        return self.is_empty and super().fits(sequence)
