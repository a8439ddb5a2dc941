"""Measures steps, as the thread that launches them tells of them."""

import numpy as np
from numpy.typing import NDArray

from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver
from quire.services.common.metrics.meter import Meter
from quire.services.common.metrics.rows import Rows
from quire.services.executor import metrics


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
        self._rows = Rows(5, self._take)
        meter.before_each(self._rows.flush)

    def computed(self, plan: StepPlan, result: StepResult, began: int, ended: int) -> None:
        context = sum(plan.context_tokens.tolist())
        self._rows.add(began, ended, result.compute_us, context, len(plan.generation_slots))

    def _take(self, rows: NDArray[np.int64]) -> None:
        began, ended, compute_us, context, generation = rows.T
        self._steps.value += len(rows)
        self._launch.observe_all((ended - began) * 1e-9)
        self._compute.observe_all(compute_us * 1e-6)
        self._step_tokens.observe_all((context + generation).astype(np.float64))
        self._context.value += int(context.sum())
        self._generation.value += int(generation.sum())
