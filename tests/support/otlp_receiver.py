"""An OTLP receiver over gRPC, which keeps what it is sent."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

# Only a hang lasts so long.
LIMIT_SECONDS = 120.0


@dataclass(frozen=True)
class ReceivedSpan:
    """One span.

    Attributes:
        service: of its resource.
        parent_id: "": it is its trace's first.
        is_error: its status.
    """

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began: int
    ended: int
    is_error: bool
    is_server: bool
    attributes: dict[str, Any]
    events: tuple[str, ...]


@dataclass
class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span.

    Attributes:
        url: where it listens.
        resources: attributes of the services that have sent, by name.
    """

    url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def Export(self, request: pb.ExportTraceServiceRequest, context: object) -> pb.ExportTraceServiceResponse:
        with self._changed:
            for group in request.resource_spans:
                resource = _attributes(group.resource.attributes)
                self.resources[resource["service.name"]] = resource
                for scope in group.scope_spans:
                    self.spans += [_received(resource["service.name"], span) for span in scope.spans]
            self._changed.notify_all()
        return pb.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of a trace that have come, in the order of their beginnings."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.began)

    def until(self, is_enough: Callable[[list[ReceivedSpan]], bool]) -> None:
        """Returns when all spans together are enough."""
        deadline = time.monotonic() + LIMIT_SECONDS
        with self._changed:
            while not is_enough(self.spans):
                assert self._changed.wait(deadline - time.monotonic()), f"there is only {self.spans}"


@contextmanager
def otlp_receiver(address: str = "127.0.0.1:0") -> Iterator[OtlpReceiver]:
    """One that listens while the context is open."""
    receiver = OtlpReceiver()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    receiver.url = f"http://127.0.0.1:{server.add_insecure_port(address)}"
    server.start()
    yield receiver
    server.stop(None).wait()


def _received(service: str, span: trace_pb2.Span) -> ReceivedSpan:
    return ReceivedSpan(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        span.kind == trace_pb2.Span.SPAN_KIND_SERVER,
        _attributes(span.attributes),
        tuple(event.name for event in span.events),
    )


def _attributes(entries: Any) -> dict[str, Any]:
    return {entry.key: _value(entry.value) for entry in entries}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
