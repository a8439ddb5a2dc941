"""What steps did for traced sequences, as spans: one for each chunk of context, and one for a run of decode steps."""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from quire.engine.api.trace_context import TraceContext
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver

if TYPE_CHECKING:
    from quire.services.common.otlp import Tracer

# Without a step for so long and a few times the last step's time, a run is over: an executor is not told that its last
# sequence has ended.
IDLE_SECONDS: Final = 1.0
_IDLE_STEPS: Final = 4
# A slot, and the trace of the sequence that is in it.
_Place: TypeAlias = tuple[int, TraceContext]


@dataclass(slots=True, eq=False)
class _Run:
    """Decode steps of a sequence, one behind the other.

    Attributes:
        began, ended: Unix time in nanoseconds.
    """

    trace: TraceContext
    first_step: int
    began: int
    last_step: int = 0
    ended: int = 0
    num_steps: int = 0
    compute_us: int = 0

    def add(self, result: StepResult, ended: int) -> None:
        """One more step."""
        self.last_step, self.ended = result.step, ended
        self.num_steps += 1
        self.compute_us += result.compute_us


class SlotSpans(StepObserver):
    """Untraced sequences cost nothing but a look at a plan's slots, and that only once there was a traced one.

    Args:
        tracer: of this executor.
        num_slots: its `max_batch_size`.
    """

    def __init__(self, tracer: "Tracer", num_slots: int) -> None:
        self._tracer = tracer
        # Whose trace is in which slot, until another sequence takes the slot.
        self._traces: dict[int, TraceContext] = {}
        self._is_traced = np.zeros(num_slots, np.bool_)
        self._runs: dict[_Place, _Run] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle_at = 0.0

    def computed(self, plan: StepPlan, result: StepResult, began: int, ended: int) -> None:
        traces = self._traces
        for start in plan.starts:
            self._is_traced[start.slot] = start.trace is not None
            if start.trace is None:
                traces.pop(start.slot, None)
            else:
                traces[start.slot] = start.trace
        if traces:
            self._record(plan, result, time.time_ns())

    def _record(self, plan: StepPlan, result: StepResult, ended: int) -> None:
        """What a step that has ended now, in nanoseconds of Unix time, did for traced sequences."""
        began = ended - 1000 * result.compute_us
        slots = plan.generation_slots[self._is_traced[plan.generation_slots]].tolist()
        decoding = [(slot, self._traces[slot]) for slot in slots]
        for place in self._runs.keys() - set(decoding):
            self._record_run(self._runs.pop(place))
        for place in decoding:
            run = self._runs.get(place) or self._runs.setdefault(place, _Run(place[1], result.step, began))
            run.add(result, ended)
        for slot, num_tokens in zip(plan.context_slots.tolist(), plan.context_tokens.tolist(), strict=True):
            if (trace := self._traces.get(slot)) is not None:
                about = {
                    "quire.step": result.step,
                    "quire.tokens": num_tokens,
                    "quire.compute_us": result.compute_us,
                    "quire.step.context_tokens": int(plan.context_tokens.sum()),
                    "quire.step.decoding": len(plan.generation_slots),
                }
                self._tracer.begin("prefill chunk", trace, about, is_server=True, at=began).end(ended)
        self._idle_at = time.monotonic() + IDLE_SECONDS + _IDLE_STEPS * result.compute_us / 1e6
        if self._runs and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._look)

    def close(self) -> None:
        """Records what has begun."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._runs:
            self._record_run(self._runs.popitem()[1])

    def _look(self) -> None:
        """Ends the runs unless there was a step meanwhile."""
        self._timer = None
        left = self._idle_at - time.monotonic()
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)
        else:
            self.close()

    def _record_run(self, run: _Run) -> None:
        about = {
            "quire.first_step": run.first_step,
            "quire.last_step": run.last_step,
            "quire.num_steps": run.num_steps,
            "quire.compute_us": run.compute_us,
        }
        self._tracer.begin("decode steps", run.trace, about, is_server=True, at=run.began).end(run.ended)
