"""Measures steps, as the thread that launches them tells of them."""

from typing import Final

import numpy as np

from quire.engine.arrays import Int32Array
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver
from quire.services.common.metrics.meter import Meter
from quire.services.executor import metrics

# Steps that are noted until they are counted: all at once they cost a fraction.
MOST_NOTED: Final = 256


class ExecutorMeter(StepObserver):
    """Counts into a meter.

    Args:
        meter: of `metrics.METRICS`.
    """

    def __init__(self, meter: Meter) -> None:
        self._steps, self._compute = meter.value(metrics.STEPS), meter.histogram(metrics.COMPUTE)
        self._launch, self._step_tokens = meter.histogram(metrics.LAUNCH), meter.histogram(metrics.STEP_TOKENS)
        self._context = meter.value(metrics.TOKENS, "context")
        self._generation = meter.value(metrics.TOKENS, "generation")
        self._noted: list[tuple[int, int, int, Int32Array, Int32Array]] = []
        meter.before_each(self.flush)

    def computed(self, plan: StepPlan, result: StepResult, began: int, ended: int) -> None:
        self._noted.append((began, ended, result.compute_us, plan.context_tokens, plan.generation_slots))
        if len(self._noted) >= MOST_NOTED:
            self.flush()

    def flush(self) -> None:
        """Everything noted is in the meter then."""
        noted, self._noted = self._noted, []
        if not noted:
            return
        began, ended, compute_us, context, generation = zip(*noted, strict=True)
        num_context = np.array([sum(tokens.tolist()) if len(tokens) else 0 for tokens in context])
        num_generation = np.array([len(slots) for slots in generation])
        self._steps.value += len(noted)
        self._launch.observe_all((np.array(ended) - np.array(began)) * 1e-9)
        self._compute.observe_all(np.array(compute_us) * 1e-6)
        self._step_tokens.observe_all((num_context + num_generation).astype(np.float64))
        self._context.value += int(num_context.sum())
        self._generation.value += int(num_generation.sum())
