"""MAX_UTILIZATION: start what fits now, pause when it no longer does."""

from collections.abc import Callable

from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.capacity.base import CapacityScheduler
from quire.engine.scheduling.generation import GenerationBatch
from quire.engine.scheduling.sequence import Sequence

# Steps planned ahead of what is seen: two in flight.
STEPS_AHEAD = 2
# Tokens of growth kept free per sequence: doubled by every pause, shrinking by this share with every step.
DECAY = 1 / 256
# Steps between two doublings: pauses of one shortage count once, as losses of one round trip do.
COOLDOWN = 16


class MaxUtilization(CapacityScheduler):
    """Sets aside only the context, so that more sequences run at once; pauses some when blocks run short.

    Starting too much costs more than it gains: what is paused is computed twice. How much growth must stay free
    for a start therefore follows the pressure: every pause doubles it, every step without one lets it shrink,
    so that under lasting pressure the policy approaches GUARANTEED_NO_EVICT instead of thrashing. Sequences
    that were paused start again before any that never ran.

    Source: the name and the aim are TensorRT-LLM's; the control is additive-decrease, multiplicative-increase
    as in congestion control, on the reserve instead of the window.
    """

    def __init__(self, kv: KVCacheManager, generation: GenerationBatch) -> None:
        super().__init__(kv, generation)
        self._growth_tokens = float(kv.block_size)
        self._num_steps = 0
        self._next_doubling = 0

    def reservation(self, sequence: Sequence) -> int:
        return min(self.kv.num_blocks(sequence.num_context + 1), self.kv.num_to_completion(sequence))

    def headroom(self, sequence: Sequence) -> int:
        tokens = int(self._growth_tokens)
        own = self.kv.num_to_completion(sequence) - self.reservation(sequence)
        return min(own, self.kv.num_blocks(tokens)) + self.generation.num_blocks_ahead(tokens)

    def begin_step(self, num_running: int) -> None:
        super().begin_step(num_running)
        smallest = float(self.kv.block_size)
        self._num_steps += 1
        self._growth_tokens = max(smallest, self._growth_tokens * (1 - DECAY))

    def victims(self, running: Callable[[], list[Sequence]], num_retiring: int) -> list[Sequence]:
        """The cheapest to recompute among the half started last, until the coming steps' growth fits."""
        missing = self.generation.num_growing(STEPS_AHEAD) - self.kv.num_unpromised - num_retiring
        if missing <= 0:
            return []
        active = running()
        chosen: list[Sequence] = []
        # The oldest is never paused, so that something always finishes.
        candidates = active[max(1, len(active) // 2) :]
        for sequence in sorted(candidates, key=lambda sequence: len(sequence.tokens)):
            if missing <= 0:
                break
            chosen.append(sequence)
            missing -= self._released_by(sequence)
        if chosen and self._num_steps >= self._next_doubling:
            self._growth_tokens *= 2
            self._next_doubling = self._num_steps + COOLDOWN
        return chosen

    def _released_by(self, sequence: Sequence) -> int:
        own = sum(self.kv.pool.num_holders(block) == 1 for block in sequence.blocks)
        return own + max(0, sequence.num_reserved - len(sequence.blocks))
