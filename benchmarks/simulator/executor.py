"""An executor without a model: it knows how long a step takes and when each sequence ends."""

from collections.abc import Sequence as List
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.engine.arrays import Int32Array
from quire.engine.step import StepPlan, StepResult
from simulator.job import Job

EOS = 0


@dataclass(frozen=True)
class StepTime:
    """Microseconds of a step, a sum over what it does.

    The defaults are near an 8B model in bf16 on an H100. It reads 16 GB of weights and 128 KiB of KV per token at about
    2.8 TB/s. It computes 16 GFLOP per context token at about 550 TFLOP/s.

    Attributes:
        base_us: reading the weights, launching.
        context_us: per context token.
        row_us: per generating sequence.
        kv_us: per token whose KV is read: everything that a row attends to, once.
    """

    base_us: float = 6_000.0
    context_us: float = 30.0
    row_us: float = 10.0
    kv_us: float = 0.045

    def of(self, num_context: int, num_rows: int, num_kv: int) -> float:
        return self.base_us + self.context_us * num_context + self.row_us * num_rows + self.kv_us * num_kv


class ImaginedExecutor:
    """Runs plans: how long each takes, and the tokens it samples. A sequence's `seed` is the number of its job.

    Args:
        step_time: see there.
        jobs: by number.
        num_slots: of the executor.
    """

    def __init__(self, step_time: StepTime, jobs: List[Job], num_slots: int) -> None:
        self._step_time = step_time
        self._prompt_lens = np.array([len(job.prompt) for job in jobs], np.int64)
        self._output_lens = np.array([job.output_len for job in jobs], np.int64)
        self._jobs: NDArray[np.int64] = np.zeros(num_slots, np.int64)  # by slot
        # By job: tokens known, tokens with KV in the blocks that it has now, and the most of these that it ever had.
        self._known: NDArray[np.int64] = np.zeros(len(jobs), np.int64)
        self._computed: NDArray[np.int64] = np.zeros(len(jobs), np.int64)
        self._furthest: NDArray[np.int64] = np.zeros(len(jobs), np.int64)
        self.num_recomputed = 0

    def run(self, plan: StepPlan) -> tuple[StepResult, float]:
        """The result, and how many microseconds it took."""
        for start in plan.starts:
            self._jobs[start.slot] = start.seed
            self._known[start.seed] = len(start.token_ids)
            self._computed[start.seed] = start.num_computed
        context, generation = self._jobs[plan.context_slots], self._jobs[plan.generation_slots]
        self._compute(context, plan.context_tokens)
        self._compute(generation, 1)
        complete = self._computed[context] == self._known[context]
        slots = np.concatenate((plan.context_slots[complete], plan.generation_slots))
        tokens = self._sample(self._jobs[slots])
        num_kv = int(self._computed[context].sum() + self._computed[generation].sum())
        took = self._step_time.of(int(plan.context_tokens.sum()), len(generation), num_kv)
        return StepResult(plan.step, slots, tokens, int(took)), took

    def _compute(self, jobs: NDArray[np.int64], counts: Int32Array | int) -> None:
        before = self._computed[jobs]
        after = self._computed[jobs] = before + counts
        self.num_recomputed += int(np.maximum(0, np.minimum(after, self._furthest[jobs]) - before).sum())
        self._furthest[jobs] = np.maximum(after, self._furthest[jobs])

    def _sample(self, jobs: NDArray[np.int64]) -> Int32Array:
        """Tokens that differ from sequence to sequence, so that none finds its text in the cache by chance."""
        self._known[jobs] += 1
        generated = self._known[jobs] - self._prompt_lens[jobs]
        tokens = 1 + (jobs * 7919 + generated * 104_729) % 30_011
        return np.where(generated >= self._output_lens[jobs], EOS, tokens).astype(np.int32)
