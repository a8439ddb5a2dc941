"""STATIC_BATCH: one batch after the other."""

from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.capacity.guaranteed_no_evict import GuaranteedNoEvict
from quire.engine.scheduling.generation import GenerationBatch
from quire.engine.sequence import Sequence


class StaticBatch(GuaranteedNoEvict):
    """A batch forms when nothing runs. The first sequence that does not fit closes it, or the first step in which
    nothing joins. The next batch waits for its last sequence.

    Source: TensorRT-LLM's policy of this name.
    """

    def __init__(self, kv: KVCacheManager, generation: GenerationBatch) -> None:
        super().__init__(kv, generation)
        self._is_forming = True
        self._num_members = 0

    def begin_step(self, num_running: int) -> None:
        super().begin_step(num_running)
        self._is_forming = num_running == 0 or (self._is_forming and num_running > self._num_members)
        self._num_members = num_running

    def fits(self, sequence: Sequence) -> bool:
        self._is_forming = self._is_forming and super().fits(sequence)
        return self._is_forming
