"""Spans as a collector receives them, and collectors that are not there or hang."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from quire.engine.api.errors import InvalidRequest, StartupError, Unavailable
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.trace_context import TraceContext
from quire.engine.step import SequenceStart, StepPlan, StepResult
from quire.services.common import otlp
from quire.services.common import tracing as common
from quire.services.common.otlp import Tracer
from quire.services.executor.main import Settings
from quire.services.executor.slot_spans import SlotSpans
from quire.services.up.ports import free_port
from support.otlp_receiver import OtlpReceiver, otlp_receiver

SAMPLED = TraceContext(f"00-{'ab' * 16}-{'cd' * 8}-01", "vendor=1")
NOT_SAMPLED = TraceContext(f"00-{'ef' * 16}-{'cd' * 8}-00")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has gathered is sent at once, and given up soon."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


def test_spans_and_their_parents_arrive() -> None:
    with otlp_receiver() as receiver:
        tracer = Tracer(receiver.url, "grpc", "quire-test")
        span = tracer.begin("call", SAMPLED, {"a": 1}, is_server=True)
        child = tracer.child("part", span)
        tracer.fail(child, Unavailable("no executor"))
        child.end()
        tracer.fail(span, InvalidRequest("text", 1, "must be text"), False)
        span.end()
        below = tracer.context(span)
        tracer.close()
    part, call = sorted(receiver.spans, key=lambda span: span.ended)
    assert (call.trace_id, call.parent_id) == (SAMPLED.trace_id, SAMPLED.span_id)
    assert (part.trace_id, part.parent_id) == (SAMPLED.trace_id, call.span_id)
    assert below == TraceContext(f"00-{call.trace_id}-{call.span_id}-01", "vendor=1")
    assert (call.is_server, part.is_server) == (True, False)
    assert (call.is_error, part.is_error) == (False, True)
    assert call.attributes == {"a": 1, "error.type": "InvalidRequest"}
    assert receiver.resources["quire-test"].keys() >= {"service.version", "service.instance.id"}


@pytest.mark.parametrize(("sample", "parent"), [(0.0, None), (1.0, NOT_SAMPLED), (None, NOT_SAMPLED)])
def test_what_is_not_sampled_is_not_sent(sample: float | None, parent: TraceContext | None) -> None:
    with otlp_receiver() as receiver:
        tracer = Tracer(receiver.url, "grpc", "quire-test", sample)
        span = tracer.begin("call", parent)
        span.end()
        assert not tracer.context(span).is_sampled
        assert parent is None or tracer.context(span).trace_id == parent.trace_id
        tracer.close()
    assert receiver.spans == []


@pytest.mark.parametrize(("sample", "parent"), [(1.0, None), (0.0, SAMPLED), (None, None)])
def test_what_is_sampled_is_sent(sample: float | None, parent: TraceContext | None) -> None:
    with otlp_receiver() as receiver:
        tracer = Tracer(receiver.url, "grpc", "quire-test", sample)
        tracer.begin("call", parent).end()
        tracer.close()
    assert len(receiver.spans) == 1


def test_the_environments_standard_variables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=other")
    with otlp_receiver() as receiver:
        tracer = Tracer(receiver.url, "grpc", "quire-test")
        tracer.begin("call", None).end()
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        silent = Tracer(receiver.url, "grpc", "quire-silent")
        silent.begin("call", SAMPLED).end()
        for each in (silent, tracer):
            each.close()
    assert receiver.resources.keys() == {"other"}
    assert receiver.resources["other"]["deployment.environment.name"] == "test"


def test_http_is_spoken_too() -> None:
    received: list[tuple[str, pb.ExportTraceServiceRequest]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, pb.ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        tracer = Tracer(f"http://127.0.0.1:{server.server_port}", "http/protobuf", "quire-test")
        tracer.begin("call", None).end()
        tracer.close()
        server.shutdown()
        serving.join()
    ((path, request),) = received
    assert path == "/v1/traces"
    assert request.resource_spans[0].scope_spans[0].spans[0].name == "call"


@pytest.mark.usefixtures("soon")
def test_a_collector_that_is_not_there_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    address = f"127.0.0.1:{free_port()}"
    caplog.set_level(logging.INFO)
    tracer = Tracer(f"http://{address}", "grpc", "quire-test")
    for number in range(5):
        tracer.begin(f"lost {number}", None).end()
        tracer._provider.force_flush()
    with otlp_receiver(address) as receiver:
        while not receiver.spans:
            tracer.begin("sent", None).end()
            tracer._provider.force_flush()
        tracer.close()
    lost, again = (record.getMessage() for record in caplog.records)
    assert lost == f"spans cannot be sent to http://{address}, and are dropped; requests go on"
    assert again.startswith(f"spans are sent to http://{address} again; ")
    assert not [span for span in receiver.spans if span.name.startswith("lost")]


class Hanging(OtlpReceiver):
    """Answers nothing before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def Export(self, request: pb.ExportTraceServiceRequest, context: object) -> pb.ExportTraceServiceResponse:
        self.is_asked.set()
        assert self.may_answer.wait(60)
        return super().Export(request, context)


def test_a_collector_that_hangs_holds_nobody_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "CLOSE_SECONDS", 0.1)
    receiver = Hanging()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tracer = Tracer(f"http://127.0.0.1:{port}", "grpc", "quire-test")
    # More than fit into the queue: they are dropped, whoever ends them goes on, and so does who closes.
    for _ in range(10_000):
        tracer.begin("call", None).end()
    assert receiver.is_asked.wait(60)
    tracer.close()
    assert receiver.spans == []
    receiver.may_answer.set()
    server.stop(None).wait()
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        raise ModuleNotFoundError("no", name="opentelemetry")

    monkeypatch.setattr(common.importlib, "import_module", import_module)
    settings = Settings(otlp_endpoint="http://127.0.0.1:4317")
    with (
        pytest.raises(StartupError, match=r"--otlp-endpoint: not installed: opentelemetry; pip install 'quire\[tr"),
        common.tracing(settings, "executor"),
    ):
        pass


def plan(step: int, starts: dict[int, TraceContext | None] | None = None, decoding: tuple[int, ...] = ()) -> StepPlan:
    """Sequences of three tokens start in these slots, and others decode."""
    slots, nothing = list(starts or {}), np.empty(0, np.int32)
    return StepPlan(
        step=step,
        copies=nothing.reshape(0, 2),
        starts=tuple(
            SequenceStart(slot, np.arange(3, dtype=np.int32), 0, nothing, 3, SamplingParams(seed=1), trace)
            for slot, trace in (starts or {}).items()
        ),
        append_slots=nothing,
        append_blocks=nothing,
        context_slots=np.array(slots, np.int32),
        context_tokens=np.full(len(slots), 3, np.int32),
        generation_slots=np.array(decoding, np.int32),
    )


def run(spans: SlotSpans, *plans: StepPlan) -> None:
    for each in plans:
        result = StepResult(each.step, each.generation_slots, each.generation_slots, compute_us=100)
        spans.computed(each, result, 0, 0)


async def test_an_executor_records_traced_sequences_alone() -> None:
    with otlp_receiver() as receiver:
        tracer = Tracer(receiver.url, "grpc", "quire-executor")
        spans = SlotSpans(tracer, num_slots=4)
        run(spans, plan(1, {0: SAMPLED, 1: None}), plan(2, decoding=(0, 1)), plan(3, decoding=(0, 1)))
        # It waits for a block, goes on, and ends; then another has its slot.
        run(spans, plan(4, decoding=(1,)), plan(5, decoding=(0, 1)), plan(6, {0: None}, (1,)), plan(7, decoding=(0,)))
        # One of the same trace, which ends with the service.
        run(spans, plan(8, {2: SAMPLED}, (0,)), plan(9, decoding=(0, 2)))
        spans.close()
        tracer.close()
    found = sorted(receiver.spans, key=lambda span: span.ended)
    assert {(span.trace_id, span.parent_id) for span in found} == {(SAMPLED.trace_id, SAMPLED.span_id)}
    about = [
        (span.name, {name.removeprefix("quire."): value for name, value in span.attributes.items()}) for span in found
    ]
    chunk = {"tokens": 3, "compute_us": 100}
    assert about == [
        ("prefill chunk", {"step": 1, **chunk, "step.context_tokens": 6, "step.decoding": 0}),
        ("decode steps", {"first_step": 2, "last_step": 3, "num_steps": 2, "compute_us": 200}),
        ("decode steps", {"first_step": 5, "last_step": 5, "num_steps": 1, "compute_us": 100}),
        ("prefill chunk", {"step": 8, **chunk, "step.context_tokens": 3, "step.decoding": 1}),
        ("decode steps", {"first_step": 9, "last_step": 9, "num_steps": 1, "compute_us": 100}),
    ]
    assert all(span.ended - span.began >= 100_000 for span in found)


def test_untraced_sequences_reach_no_tracer() -> None:
    nobody: Any = None
    spans = SlotSpans(nobody, num_slots=4)
    run(spans, plan(1, {0: None, 1: None}), *(plan(step, decoding=(0, 1)) for step in range(2, 20)))
