"""Measures requests, and what happens to services, as the scheduler is told of them."""

from time import monotonic
from types import MappingProxyType
from typing import Final

from quire.engine.api.errors import RequestError
from quire.engine.api.version import __version__
from quire.engine.open_request import Finish
from quire.engine.request import Request
from quire.engine.sequence import Sequence
from quire.services.common.metrics.meter import Meter
from quire.services.common.metrics.outcome import CANCELLED, FINISHED, outcome_of, refusal_of
from quire.services.scheduler import metrics
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.observer import SchedulerObserver
from quire.services.scheduler.step_meter import StepMeter

_RECOVERIES: Final = MappingProxyType(
    {
        EventKind.EXECUTOR_RECOVERED: "executor",
        EventKind.REQUESTS_RECOVERED: "requests",
        EventKind.LEDGER_RECOVERED: "ledger",
    }
)


class SchedulerMeter(SchedulerObserver):
    """Counts into a meter.

    Args:
        meter: of `metrics.METRICS`.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        # When the first token of each was there.
        self._first: dict[Sequence, float] = {}
        self._steps: dict[str, StepMeter] = {}
        meter.value(metrics.BUILD_INFO, __version__).value = 1
        for outcome in (*FINISHED, CANCELLED):
            meter.value(metrics.REQUESTS, outcome)
        for kind in EventKind:
            meter.value(metrics.EVENTS, kind)
        self._recoveries = {kind: meter.histogram(metrics.RECOVERY, name) for kind, name in _RECOVERIES.items()}
        self._resumed = meter.value(metrics.RESUMED)
        self._queue, self._prefill = meter.histogram(metrics.QUEUE), meter.histogram(metrics.PREFILL)
        self._first_token, self._decode = meter.histogram(metrics.FIRST_TOKEN), meter.histogram(metrics.DECODE)
        self._per_token, self._duration = meter.histogram(metrics.PER_TOKEN), meter.histogram(metrics.DURATION)
        meter.before_each(self._flush)

    def refuse(self, request: Request, error: RequestError) -> None:
        self._meter.value(metrics.REFUSALS, *refusal_of(error)).value += 1

    def begin(self, sequence: Sequence) -> None:
        self._resumed.value += sequence.request.is_resumed

    def start(self, sequence: Sequence) -> None:
        if sequence in self._first:
            return
        now = monotonic()
        self._first[sequence] = now
        self._queue.observe(sequence.queue_seconds)
        self._first_token.observe(now - sequence.arrived)
        self._prefill.observe(now - sequence.arrived - sequence.queue_seconds)

    def end(self, sequence: Sequence, outcome: Finish | RequestError | None) -> None:
        now = monotonic()
        self._meter.value(metrics.REQUESTS, outcome_of(outcome)).value += 1
        self._duration.observe(now - sequence.arrived)
        first = self._first.pop(sequence, None)
        if first is not None:
            self._decode.observe(now - first)
            more = len(sequence.tokens) - sequence.num_prompt - len(sequence.request.generated) - 1
            if more > 0:
                self._per_token.observe((now - first) / more)

    def notice(self, event: Event) -> None:
        self._meter.value(metrics.EVENTS, event.kind).value += 1
        if event.kind in self._recoveries and event.seconds is not None:
            self._recoveries[event.kind].observe(event.seconds)

    def steps(self, executor: str) -> StepMeter:
        if executor not in self._steps:
            self._steps[executor] = StepMeter(self._meter, executor)
        return self._steps[executor]

    def retain(self, executors: set[str]) -> None:
        """Forgets all others: no address of theirs is named any more."""
        for gone in self._steps.keys() - executors:
            del self._steps[gone]
        self._meter.retain("executor", executors)

    def _flush(self) -> None:
        for steps in self._steps.values():
            steps.flush()
