"""GUARANTEED_NO_EVICT: what starts, finishes."""

import numpy as np

from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.capacity.base import CapacityScheduler
from quire.engine.scheduling.capacity.forecast import Forecast
from quire.engine.scheduling.generation import GenerationBatch
from quire.engine.sequence import Sequence, SequenceState


class GuaranteedNoEvict(CapacityScheduler):
    """A started sequence is never paused: there will be blocks for it to its end.

    These blocks need not be free when it starts: others end before it needs them, each at the step of its last allowed
    token at the latest. Of a model with sliding windows all of a sequence's blocks are set aside at its start.

    Source: the name and the guarantee are TensorRT-LLM's. That a batch's memory has its peak right before an end is
    from "Past-Future Scheduler for LLM Serving under SLA Guarantees" (ASPLOS 2025), which guesses the ends, and pauses.
    """

    def __init__(self, kv: KVCacheManager, generation: GenerationBatch) -> None:
        super().__init__(kv, generation)
        self._forecast: Forecast | None = None
        # Sequences whose context is being computed: they grow, and it is not known when they end.
        self._starting: list[Sequence] = []

    def reservation(self, sequence: Sequence) -> int:
        if self.kv.has_windows:
            return self.kv.num_to_completion(sequence)
        return self.kv.num_to_generate(sequence)

    def begin_step(self, num_running: int) -> None:
        super().begin_step(num_running)
        self._forecast = None

    def fits(self, sequence: Sequence) -> bool:
        room = self.room_beside(sequence)
        if room < 0 or self.kv.has_windows:
            return room >= 0
        forecast = self._forecast = self._forecast or self._foresee()
        demand = forecast.demand(self._growth(sequence), self.kv.sole_holders(sequence))
        if forecast.peak(demand) > room:
            return False
        forecast.add(demand)
        self._starting.append(sequence)
        return True

    def _foresee(self) -> Forecast:
        members = self.generation.members
        returned = np.fromiter(map(self.kv.num_sole, members), np.int64, len(members))
        num_tables = self.kv.num_whole_groups
        forecast = Forecast(members, *self.generation.lengths, returned, self.kv.block_size, num_tables)
        self._starting = [each for each in self._starting if each.state is SequenceState.CONTEXT]
        for each in self._starting:
            forecast.add(forecast.demand(self._growth(each), {}))
        return forecast

    def _growth(self, sequence: Sequence) -> int:
        """Blocks that it takes behind those that are set aside for it at its start."""
        return self.kv.num_to_completion(sequence) - self.kv.num_to_generate(sequence)
