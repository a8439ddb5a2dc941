"""MAX_UTILIZATION: start what fits now, pause when it no longer does."""

from collections.abc import Callable

from quire.engine.resources.kv_cache import KVCacheManager
from quire.engine.scheduling.capacity.base import CapacityScheduler
from quire.engine.scheduling.generation import GenerationBatch
from quire.engine.sequence import Sequence

# Steps planned ahead of what is seen: two in flight.
STEPS_AHEAD = 2
# Tokens of growth kept free per sequence. The first value keeps the whole queue from starting at the beginning. Pauses
# double the reserve, up to a bound, which bounds the way back too. Every step shrinks it by a share of itself.
FIRST_RESERVE = 128.0
LARGEST_RESERVE = 4096.0
DECAY = 1 / 256
# Steps between two doublings: pauses of one shortage count once, as losses of one round trip do.
COOLDOWN = 16


class MaxUtilization(CapacityScheduler):
    """Sets aside only the context, so that more sequences run at once; pauses some when blocks run short.

    Starting too much costs more than it gains: what is paused is computed twice. How many tokens of growth must stay
    free for each sequence, the new one included, before another starts therefore follows the pressure:

        a pause            reserve x 2, once in `COOLDOWN` steps, at most `LARGEST_RESERVE`
        every step         reserve x (1 - DECAY), at least one block

    Nothing is kept free beyond a sequence's end. So under lasting pressure the policy approaches GUARANTEED_NO_EVICT
    instead of thrashing. It comes back from there within some thousand steps. Sequences that were paused start again
    before any that never ran.

    Source: the name and the aim are TensorRT-LLM's; the control is that of congestion windows turned round: fast
    away from trouble, slowly back. The constants are from benchmarks/simulate.py.
    """

    def __init__(self, kv: KVCacheManager, generation: GenerationBatch) -> None:
        super().__init__(kv, generation)
        self._growth_tokens = FIRST_RESERVE
        self._num_steps = 0
        self._next_doubling = 0

    def reservation(self, sequence: Sequence) -> int:
        return self.kv.num_to_generate(sequence)

    def headroom(self, sequence: Sequence) -> int:
        tokens = int(self._growth_tokens)
        own = self.kv.num_to_completion(sequence) - self.reservation(sequence)
        num_tables, each = self.kv.num_whole_groups, -(-tokens // self.kv.block_size)
        return min(own, each * num_tables) + self.generation.num_blocks_ahead(tokens) * num_tables

    def begin_step(self, num_running: int) -> None:
        super().begin_step(num_running)
        smallest = float(self.kv.block_size)
        self._num_steps += 1
        self._growth_tokens = max(smallest, self._growth_tokens * (1 - DECAY))

    def victims(self, running: Callable[[], list[Sequence]], num_retiring: int) -> list[Sequence]:
        """The cheapest to recompute among the half started last, until the coming steps' growth fits."""
        growth = self.generation.num_growing(STEPS_AHEAD) * self.kv.num_whole_groups
        missing = growth - self.kv.num_unpromised - num_retiring
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
            self._growth_tokens = min(LARGEST_RESERVE, self._growth_tokens * 2)
            self._next_doubling = self._num_steps + COOLDOWN
        return chosen

    def _released_by(self, sequence: Sequence) -> int:
        held = (block for table in sequence.tables for block in table.held)
        own = sum(self.kv.pool.num_holders(block) == 1 for block in held)
        return own + max(0, sequence.num_reserved - sequence.num_held)
