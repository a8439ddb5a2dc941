"""Measures the steps of one executor, as its loop tells of them."""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.errors import LedgerError
from quire.engine.arrays import Int32Array
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver
from quire.services.common.metrics.cells import Histogram
from quire.services.common.metrics.meter import Meter
from quire.services.common.metrics.metric import Metric
from quire.services.scheduler import metrics

# Steps that are noted until they are counted: all at once they cost a fraction.
MOST_NOTED: Final = 256
_Plan: TypeAlias = tuple[int, int, int, int, Int32Array, Int32Array]


class StepMeter(StepObserver):
    """Notes each plan and each result as it is, and counts them many at a time."""

    def __init__(self, meter: Meter, executor: str) -> None:
        def histogram(metric: Metric) -> Histogram:
            return meter.histogram(metric, executor)

        self._schedule, self._commit = histogram(metrics.SCHEDULE), histogram(metrics.COMMIT)
        self._send, self._wait = histogram(metrics.SEND), histogram(metrics.WAIT)
        self._update = histogram(metrics.UPDATE)
        self._tokens, self._sequences = histogram(metrics.STEP_TOKENS), histogram(metrics.STEP_SEQUENCES)
        self._steps = meter.value(metrics.STEPS, executor)
        self._context_tokens = meter.value(metrics.CONTEXT_TOKENS, executor)
        self._generation_tokens = meter.value(metrics.GENERATION_TOKENS, executor)
        self._ledger_refusals = meter.value(metrics.LEDGER_REFUSALS, executor)
        self._plans: list[_Plan] = []
        self._results: list[tuple[int, int, int, int]] = []

    def planned(self, plan: StepPlan, began: int, scheduled: int, committed: int, sent: int) -> None:
        self._plans.append((began, scheduled, committed, sent, plan.context_tokens, plan.generation_slots))

    def updated(self, result: StepResult, num_tokens: int, began: int, received: int, updated: int) -> None:
        self._results.append((began, received, updated, num_tokens))
        if len(self._results) >= MOST_NOTED:
            self.flush()

    def refused(self, error: LedgerError) -> None:
        self._ledger_refusals.value += 1

    def flush(self) -> None:
        """Everything noted is in the meter then."""
        plans, results = self._plans, self._results
        self._plans, self._results = [], []
        if plans:
            self._count_plans(plans)
        if results:
            began, received, updated, num_tokens = zip(*results, strict=True)
            self._wait.observe_all(_seconds(began, received))
            self._update.observe_all(_seconds(received, updated))
            self._generation_tokens.value += sum(num_tokens)

    def _count_plans(self, plans: list[_Plan]) -> None:
        began, scheduled, committed, sent, context, generation = zip(*plans, strict=True)
        self._schedule.observe_all(_seconds(began, scheduled))
        commits = _seconds(scheduled, committed)
        self._commit.observe_all(commits[commits > 0])
        self._send.observe_all(_seconds(committed, sent))
        num_context = np.array([len(tokens) for tokens in context])
        num_tokens = np.array([sum(tokens.tolist()) if len(tokens) else 0 for tokens in context])
        num_generation = np.array([len(slots) for slots in generation])
        self._tokens.observe_all((num_tokens + num_generation).astype(np.float64))
        self._sequences.observe_all((num_context + num_generation).astype(np.float64))
        self._steps.value += len(plans)
        self._context_tokens.value += int(num_tokens.sum())


def _seconds(began: tuple[int, ...], ended: tuple[int, ...]) -> NDArray[np.float64]:
    """Of nanoseconds."""
    seconds: NDArray[np.float64] = (np.array(ended) - np.array(began)) * 1e-9
    return seconds
