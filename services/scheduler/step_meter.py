"""Measures the steps of one executor, as its loop tells of them."""

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.errors import LedgerError
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver
from quire.services.common.metrics.cells import Histogram
from quire.services.common.metrics.meter import Meter
from quire.services.common.metrics.metric import Metric
from quire.services.common.metrics.rows import Rows
from quire.services.scheduler import metrics

_NANOSECOND = 1e-9


class StepMeter(StepObserver):
    """Notes a row for each plan and for each result; they become histograms many at a time."""

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
        self._plans = Rows(7, self._take_plans)
        self._results = Rows(4, self._take_results)

    def planned(self, plan: StepPlan, began: int, scheduled: int, committed: int, sent: int) -> None:
        num_context = len(plan.context_slots)
        tokens = sum(plan.context_tokens.tolist()) if num_context else 0
        rows = len(plan.generation_slots)
        self._plans.add(began, scheduled, committed, sent, tokens, rows, num_context)

    def updated(self, result: StepResult, num_tokens: int, began: int, received: int, updated: int) -> None:
        self._results.add(began, received, updated, num_tokens)

    def refused(self, error: LedgerError) -> None:
        self._ledger_refusals.value += 1

    def flush(self) -> None:
        """Everything noted is in the meter then."""
        self._plans.flush()
        self._results.flush()

    def _take_plans(self, rows: NDArray[np.int64]) -> None:
        began, scheduled, committed, sent, tokens, generation, context = rows.T
        self._schedule.observe_all((scheduled - began) * _NANOSECOND)
        commits = committed - scheduled
        self._commit.observe_all(commits[commits > 0] * _NANOSECOND)
        self._send.observe_all((sent - committed) * _NANOSECOND)
        self._tokens.observe_all((tokens + generation).astype(np.float64))
        self._sequences.observe_all((context + generation).astype(np.float64))
        self._steps.value += len(rows)
        self._context_tokens.value += int(tokens.sum())

    def _take_results(self, rows: NDArray[np.int64]) -> None:
        began, received, updated, num_tokens = rows.T
        self._wait.observe_all((received - began) * _NANOSECOND)
        self._update.observe_all((updated - received) * _NANOSECOND)
        self._generation_tokens.value += int(num_tokens.sum())
