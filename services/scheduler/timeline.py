"""Steps and requests on the scheduler's timeline, each with the trace of its caller's that it belongs to."""

from dataclasses import asdict

from quire.engine.api.errors import RequestError
from quire.engine.open_request import Finish
from quire.engine.request import Request
from quire.engine.sequence import Sequence
from quire.engine.trace import Trace
from quire.services.scheduler.observer import SchedulerObserver


class Timeline(SchedulerObserver):
    """Notes steps, and when requests come, start and end."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def begin(self, sequence: Sequence) -> None:
        request = sequence.request
        caller = request.options.trace
        fields = {} if caller is None else asdict(caller)
        self._trace.request("b", _name(request), request_id=request.request_id, **fields)

    def start(self, sequence: Sequence) -> None:
        self._trace.request("n", _name(sequence.request), cached_tokens=sequence.num_cached)

    def end(self, sequence: Sequence, outcome: Finish | RequestError | None) -> None:
        ending = outcome.reason.name.lower() if isinstance(outcome, Finish) else type(outcome).__name__
        self._trace.request("e", _name(sequence.request), ending="cancelled" if outcome is None else ending)

    def steps(self, executor: str) -> Trace:
        return self._trace


def _name(request: Request) -> str:
    return f"{request.client}.{request.handle}"
