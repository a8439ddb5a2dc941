"""An executor without a model: it knows how long a step takes and when each sequence ends."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quire.engine.scheduling.sequence import Sequence
from quire.engine.step import StepPlan, StepResult

EOS = 0


@dataclass(frozen=True)
class StepTime:
    """Microseconds of a step; the defaults are near an 8B model in bf16 on an H100.

    Attributes:
        base_us: reading the weights.
        context_us: computing one context token.
        row_us: one generating sequence, beside the weights.
        kv_us: reading the KV of one token.
    """

    base_us: float = 6_000.0
    context_us: float = 30.0
    row_us: float = 10.0
    kv_us: float = 0.045

    def of(self, num_context: int, num_rows: int, num_kv: int) -> float:
        return self.base_us + self.context_us * num_context + self.row_us * num_rows + self.kv_us * num_kv


class ImaginedExecutor:
    """Runs plans: how long each takes, and the tokens it samples.

    Args:
        output_lens: handle → tokens after which the sequence says that it is finished.
    """

    def __init__(self, step_time: StepTime, output_lens: Mapping[int, int]) -> None:
        self._step_time = step_time
        self._output_lens = output_lens
        # Slot → [sequence, tokens known, tokens computed].
        self._slots: dict[int, tuple[Sequence, list[int]]] = {}
        self.num_context_tokens = 0

    def run(self, plan: StepPlan, running: list[Sequence]) -> tuple[StepResult, float]:
        """The result, and how many microseconds it took."""
        by_slot = {sequence.slot: sequence for sequence in running} if plan.starts else {}
        for start in plan.starts:
            self._slots[start.slot] = by_slot[start.slot], [len(start.token_ids), start.num_computed]
        sampled = [row for row in map(self._context, *self._pairs(plan)) if row is not None]
        num_kv = 0
        for slot in plan.generation_slots.tolist():
            sequence, counts = self._slots[slot]
            counts[1] += 1
            num_kv += counts[1]
            sampled.append((slot, self._sample(sequence, counts)))
        num_context = int(plan.context_tokens.sum())
        self.num_context_tokens += num_context
        slots, tokens = np.array(sampled, np.int32).reshape(-1, 2).T
        took = self._step_time.of(num_context, len(plan.generation_slots), num_kv)
        return StepResult(plan.step, slots, tokens, int(took)), took

    @staticmethod
    def _pairs(plan: StepPlan) -> tuple[list[int], list[int]]:
        return plan.context_slots.tolist(), plan.context_tokens.tolist()

    def _context(self, slot: int, count: int) -> tuple[int, int] | None:
        sequence, counts = self._slots[slot]
        counts[1] += count
        return (slot, self._sample(sequence, counts)) if counts[1] == counts[0] else None

    def _sample(self, sequence: Sequence, counts: list[int]) -> int:
        counts[0] += 1
        generated = counts[0] - sequence.num_prompt
        if generated >= self._output_lens[sequence.request.handle]:
            return EOS
        return 1 + (sequence.request.handle * 7919 + generated * 104_729) % 30_000
