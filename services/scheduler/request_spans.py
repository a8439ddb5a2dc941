"""Requests on the scheduler's timeline, each with the trace of its caller's that it belongs to."""

from dataclasses import asdict

from quire.engine.api.errors import RequestError
from quire.engine.open_request import Finish
from quire.engine.request import Request
from quire.engine.sequence import Sequence
from quire.engine.trace import Trace


class RequestSpans:
    """Notes when requests come, start and end."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def begin(self, request: Request) -> None:
        """It waits now."""
        caller = request.options.trace
        fields = {} if caller is None else asdict(caller)
        self._trace.request("b", _name(request), request_id=request.request_id, **fields)

    def start(self, sequence: Sequence) -> None:
        """Its first token is there."""
        self._trace.request("n", _name(sequence.request), cached_tokens=sequence.num_cached)

    def end(self, request: Request, outcome: Finish | RequestError | None) -> None:
        """It is over; None: its client has cancelled it."""
        ending = outcome.reason.name.lower() if isinstance(outcome, Finish) else type(outcome).__name__
        self._trace.request("e", _name(request), ending="cancelled" if outcome is None else ending)


def _name(request: Request) -> str:
    return f"{request.client}.{request.handle}"
