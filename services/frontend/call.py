"""What a client asks for, as logs and traces know it: an HTTP request, a gRPC call, or a request of a call of many."""

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from quire.engine.api.errors import RequestError
from quire.engine.api.trace_context import TraceContext
from quire.protos.status import code_name
from quire.services.common.logs import REQUEST, request_fields
from quire.services.frontend.call_span import CallSpan

if TYPE_CHECKING:
    from quire.services.common.otlp import Tracer

logger = logging.getLogger(__name__)


class Operation(NamedTuple):
    """What can be called.

    Attributes:
        name: of the method, or of the route.
        kind: as `gen_ai.operation.name` has it.
        id_prefix: in front of a request's id in the answer's.
        attributes: of its spans.
        status_attribute: the one that says how a call ended.
    """

    name: str
    kind: str
    id_prefix: str = ""
    attributes: Mapping[str, str] = MappingProxyType({})
    status_attribute: str = "rpc.response.status_code"


def rpc(method: str, kind: str = "text_completion") -> Operation:
    """A gRPC method, such as "quire.v1.InferenceService/Generate"."""
    return Operation(method, kind, attributes={"rpc.system.name": "grpc", "rpc.method": method})


class Call:
    """One call, from its arrival to its end.

    Attributes:
        trace: that what is done for it belongs to; its caller's where nothing is traced.
        span: what is recorded of it; None: nothing is.
    """

    def __init__(
        self, operation: Operation, request_id: str, trace: TraceContext | None, span: CallSpan | None = None
    ) -> None:
        self._operation = operation
        self._request_id = request_id
        self.trace = trace
        self.span = span
        self._began = time.monotonic()
        self._error: BaseException | None = None

    @property
    def fields(self) -> dict[str, str]:
        """What log lines say of it."""
        return request_fields(self._request_id, self.trace)

    def attach(self) -> None:
        """The running task serves it, and so do those that it makes."""
        _CURRENT.set(self)
        REQUEST.set(self.fields)

    def part(self, name: str) -> AbstractContextManager[None]:
        """What is done for it inside is a span of this name."""
        return nullcontext() if self.span is None else self.span.part(name)

    def fail(self, error: BaseException) -> None:
        """This is why it is not answered, or not to the end; the first error counts."""
        if self._error is None:
            self._error = error
            if self.span is not None:
                self.span.fail(error)

    def end(self, status: str | int) -> None:
        """It is over, with this status."""
        if self.span is not None:
            self.span.end(self._operation.status_attribute, status)
        if logger.isEnabledFor(logging.DEBUG):
            duration_ms = round(1000 * (time.monotonic() - self._began), 1)
            reason = f": {self._error}" if isinstance(self._error, RequestError) else ""
            about = {**self.fields, "operation": self._operation.name, "status": status, "duration_ms": duration_ms}
            logger.debug("%s: %s in %s ms%s", self._operation.name, status, duration_ms, reason, extra=about)

    def __enter__(self) -> Self:
        """For a gRPC call: attaches it, and ends it with the status of what is raised inside."""
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        self.end(rpc_status(error))


def rpc_status(error: BaseException | None) -> str:
    """The name of the gRPC status of a call that this has ended."""
    if error is None:
        return "OK"
    if isinstance(error, RequestError):
        return code_name(error)
    return "UNKNOWN" if isinstance(error, Exception) else "CANCELLED"


class Calls:
    """Begins calls.

    Args:
        tracer: of this frontend; None: nothing is traced.
    """

    def __init__(self, tracer: "Tracer | None" = None) -> None:
        self._tracer = tracer

    def begin(self, operation: Operation, request_id: str, trace: TraceContext | None) -> Call:
        """A call has come; `end` it.

        Args:
            request_id: the client's name for it; "": it has none.
            trace: the caller's.
        """
        if self._tracer is None:
            return Call(operation, request_id, trace)
        span = self._tracer.begin(operation.name, trace, operation.attributes, is_server=True)
        trace = self._tracer.context(span)
        if not span.is_recording():
            return Call(operation, request_id, trace)
        span.set_attributes({"gen_ai.operation.name": operation.kind, "gen_ai.provider.name": "quire"})
        return Call(operation, request_id, trace, CallSpan(self._tracer, span, operation.id_prefix))


UNTRACED: Final = Calls()
"""Of frontends that trace nothing."""


def current_call() -> Call:
    """The call that the running task serves; one that nobody follows outside of calls."""
    return _CURRENT.get()


_NONE: Final = Call(Operation("", ""), "", None)
_CURRENT: Final[ContextVar[Call]] = ContextVar("call", default=_NONE)
