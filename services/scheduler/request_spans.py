"""Requests as spans: one for each, and a part for what it does: wait, have its context computed, generate."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quire.engine.api.errors import RequestError
from quire.engine.open_request import Finish
from quire.engine.request import Request
from quire.engine.sequence import Sequence
from quire.engine.step import StepPlan
from quire.engine.step_observer import StepObserver
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.observer import SchedulerObserver

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from quire.services.common.otlp import Tracer


@dataclass(slots=True)
class _Life:
    """A request that is open.

    Attributes:
        span: of the whole.
        part: of what it does now.
        executor: where it runs; "": nowhere.
    """

    span: "Span"
    part: "Span"
    executor: str = ""


class RequestSpans(SchedulerObserver):
    """Records the requests whose callers record theirs, and tells executors so by `Sequence.trace`."""

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer
        self._lives: dict[Sequence, _Life] = {}
        # By the span's id, which starts of plans have.
        self._by_id: dict[str, _Life] = {}

    def refuse(self, request: Request, error: RequestError) -> None:
        if (span := self._begin(request)) is not None:
            self._tracer.fail(span, error)
            span.end()

    def begin(self, sequence: Sequence) -> None:
        if (span := self._begin(sequence.request)) is not None:
            sequence.trace = self._tracer.context(span)
            life = _Life(span, self._tracer.child("queue", span))
            self._lives[sequence] = self._by_id[sequence.trace.span_id] = life

    def start(self, sequence: Sequence) -> None:
        if (life := self._lives.get(sequence)) is not None:
            self._enter(life, "decode", time.time_ns())

    def end(self, sequence: Sequence, outcome: Finish | RequestError | None) -> None:
        life = self._lives.pop(sequence, None)
        if life is None or sequence.trace is None:
            return
        del self._by_id[sequence.trace.span_id]
        life.part.end()
        ending = "cancelled" if outcome is None else "failed"
        if isinstance(outcome, Finish):
            ending = outcome.reason.name.lower()
        elif outcome is not None:
            self._tracer.fail(life.span, outcome)
        life.span.set_attributes(
            {
                "quire.ending": ending,
                "quire.prompt_tokens": sequence.num_prompt,
                "quire.cached_tokens": sequence.num_cached,
                "quire.generated_tokens": len(sequence.tokens) - sequence.num_prompt,
            }
        )
        life.span.end()

    def notice(self, event: Event) -> None:
        if event.kind is not EventKind.EXECUTOR_LOST:
            return
        for life in self._lives.values():
            if life.executor == event.subject:
                life.executor = ""
                life.span.add_event("executor lost", {"quire.executor": event.subject, "quire.detail": event.detail})
                self._enter(life, "queue", time.time_ns())

    def steps(self, executor: str) -> StepObserver:
        return _Starts(self, executor)

    def run(self, span_id: str, executor: str, step: int, num_tokens: int, at: int) -> None:
        """A sequence has taken a slot, with so many tokens to compute, at this Unix time in nanoseconds."""
        if (life := self._by_id.get(span_id)) is not None:
            life.executor = executor
            self._enter(life, "prefill", at)
            life.part.set_attributes(
                {"quire.executor": executor, "quire.step": step, "quire.context_tokens": num_tokens}
            )

    def _begin(self, request: Request) -> "Span | None":
        caller = request.options.trace
        if caller is None or not caller.is_sampled:
            return None
        span = self._tracer.begin("schedule", caller, is_server=True)
        span.set_attributes({"quire.request_id": request.request_id, "quire.is_resumed": request.is_resumed})
        return span

    def _enter(self, life: _Life, name: str, at: int) -> None:
        life.part.end(at)
        life.part = self._tracer.child(name, life.span, at=at)


class _Starts(StepObserver):
    """Looks for traced sequences in the plans of one executor."""

    def __init__(self, spans: RequestSpans, executor: str) -> None:
        self._spans = spans
        self._executor = executor

    def planned(self, plan: StepPlan, began: int, scheduled: int, committed: int, sent: int) -> None:
        for start in plan.starts:
            if start.trace is not None:
                at = time.time_ns() - (time.monotonic_ns() - scheduled)
                num_tokens = len(start.token_ids) - start.num_computed
                self._spans.run(start.trace.span_id, self._executor, plan.step, num_tokens, at)
