"""Spans by OpenTelemetry, sent to a collector over OTLP. The one module that imports it.

The collector is never waited for: a thread of the library sends what has gathered. What a full queue has no room for is
dropped. The library reads its own environment variables: OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME,
OTEL_TRACES_SAMPLER, OTEL_BSP_* and OTEL_EXPORTER_OTLP_* but for the endpoint and the protocol.
"""

import importlib
import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from quire.engine.api.trace_context import TraceContext
from quire.engine.api.version import __version__

logger = logging.getLogger(__name__)

Protocol: TypeAlias = Literal["grpc", "http/protobuf"]
Attributes: TypeAlias = Mapping[str, AttributeValue]
# How long an ending service waits for a collector that does not answer.
CLOSE_SECONDS: Final = 2.0
_EXPORTERS: Final = MappingProxyType(
    {
        "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
        "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    }
)
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Tracer:
    """Begins the spans of one service.

    Args:
        endpoint: URL of the collector.
        service: the name of all its spans' resource.
        sample: share of the traces that begin here that are recorded; None: as OTEL_TRACES_SAMPLER says.
    """

    def __init__(self, endpoint: str, protocol: Protocol, service: str, sample: float | None = None) -> None:
        if protocol == "http/protobuf" and not endpoint.endswith("/v1/traces"):
            endpoint = f"{endpoint.rstrip('/')}/v1/traces"
        # Its messages come with every batch that fails; what they say is said once by `_Sender`.
        if not logger.isEnabledFor(logging.DEBUG):
            logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._sender = _Sender(importlib.import_module(_EXPORTERS[protocol]).OTLPSpanExporter(endpoint), endpoint)
        own = {
            "service.name": service,
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}/{os.getpid()}",
        }
        self._provider = TracerProvider(
            sampler=None if sample is None else ParentBasedTraceIdRatio(sample),
            resource=Resource.create(own).merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._sender))
        self._tracer = self._provider.get_tracer("quire", __version__)

    def begin(
        self,
        name: str,
        parent: TraceContext | None,
        attributes: Attributes | None = None,
        *,
        is_server: bool = False,
        at: int | None = None,
    ) -> Span:
        """A span, which may be one that is not recorded; end it.

        Args:
            parent: None: it begins a trace.
            is_server: its parent is in another process, or there is none.
            at: when it began, in nanoseconds of Unix time; None: now.
        """
        carrier = {} if parent is None else {"traceparent": parent.traceparent, "tracestate": parent.tracestate}
        kind = SpanKind.SERVER if is_server else SpanKind.INTERNAL
        return self._tracer.start_span(name, _PROPAGATOR.extract(carrier), kind, attributes, start_time=at)

    def child(self, name: str, span: Span, attributes: Attributes | None = None, *, at: int | None = None) -> Span:
        """A part of a span of this service; arguments and result as of `begin`."""
        return self._tracer.start_span(name, set_span_in_context(span), attributes=attributes, start_time=at)

    @staticmethod
    def context(span: Span) -> TraceContext:
        """What is the parent of a span's children in other services."""
        own = span.get_span_context()
        flags = int(own.trace_flags)
        return TraceContext(f"00-{own.trace_id:032x}-{own.span_id:016x}-{flags:02x}", own.trace_state.to_header())

    @staticmethod
    def fail(span: Span, error: BaseException, is_fault: bool = True) -> None:
        """An error has ended what the span is about; a fault is one of this server, not of whoever asked it."""
        span.set_attribute("error.type", type(error).__name__)
        if is_fault:
            span.set_status(Status(StatusCode.ERROR, str(error)))

    def close(self) -> None:
        """Sends what has gathered, unless the collector does not take it in time."""
        # It has no limit of its own that a service could end within.
        closing = threading.Thread(target=self._provider.shutdown, name="quire-spans", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            # Gives up what it tries again.
            self._sender.shutdown()


class _Sender(SpanExporter):  # type: ignore[misc,unused-ignore]
    """Says once that spans cannot be sent, and once that they are again."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._num_lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._num_lost:
                logger.warning("spans cannot be sent to %s, and are dropped; requests go on", self._endpoint)
            self._num_lost += len(spans)
        elif self._num_lost:
            logger.info("spans are sent to %s again; %d were dropped", self._endpoint, self._num_lost)
            self._num_lost = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
