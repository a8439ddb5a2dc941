"""What logs say of a client's call, and that a call that nobody records costs no span."""

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from subprocess import run
from typing import Any

import pytest
from starlette.types import Message

from quire.engine.api.errors import InvalidRequest, Overloaded
from quire.engine.api.trace_context import TraceContext
from quire.services.common.logs import REQUEST
from quire.services.frontend.call import UNTRACED, Call, Calls, current_call, rpc
from quire.services.frontend.http.calls import HttpCalls

TRACE = TraceContext(f"00-{'ab' * 16}-{'cd' * 8}-01")
GENERATE = rpc("quire.v1.InferenceService/Generate")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "quire.services.frontend.call"):
        yield caplog


async def post(app: Any, path: str = "/v1/completions") -> None:
    headers = [(b"traceparent", TRACE.traceparent.encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "state": {"request_id": "r"}}

    async def nothing(*_: Message) -> Any:
        return None

    await HttpCalls(app, UNTRACED)(scope, nothing, nothing)


def answering(status: int) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert current_call().trace == TRACE
        assert REQUEST.get()["request_id"] == "r"
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    return app


async def test_an_http_request_is_a_line(lines: pytest.LogCaptureFixture) -> None:
    await asyncio.create_task(post(answering(429)))
    (line,) = map(vars, lines.records)
    assert (line["request_id"], line["trace_id"], line["span_id"]) == ("r", TRACE.trace_id, TRACE.span_id)
    assert (line["operation"], line["status"]) == ("POST /v1/completions", 429)
    assert line["message"].startswith("POST /v1/completions: 429 in ")


async def test_a_request_that_fails_or_is_left_is_one_too(lines: pytest.LogCaptureFixture) -> None:
    async def fail(*_: Any) -> None:
        raise KeyError("a bug")

    async def leave(*_: Any) -> None:
        pass

    with suppress(KeyError):
        await asyncio.create_task(post(fail))
    await asyncio.create_task(post(leave))
    assert [vars(line)["status"] for line in lines.records] == [500, 499]


async def test_what_computes_nothing_is_no_call(lines: pytest.LogCaptureFixture) -> None:
    async def app(*_: Any) -> None:
        assert current_call().trace is None

    await asyncio.create_task(post(app, "/tokenize"))
    assert lines.records == []


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "OK", ""),
        (InvalidRequest("text", 1, "must be text"), "INVALID_ARGUMENT", ": text: must be text, got 1"),
        (Overloaded("full", 1.0), "RESOURCE_EXHAUSTED", ": full"),
        (KeyError("a bug"), "UNKNOWN", ""),
        (asyncio.CancelledError(), "CANCELLED", ""),
    ],
)
async def test_a_grpc_call_is_a_line(
    lines: pytest.LogCaptureFixture, error: BaseException | None, status: str, reason: str
) -> None:
    async def call() -> None:
        with suppress(BaseException), UNTRACED.begin(GENERATE, "r", None):
            if error is not None:
                raise error

    await asyncio.create_task(call())
    (line,) = map(vars, lines.records)
    assert (line["request_id"], line["status"]) == ("r", status)
    assert line["message"].endswith(f" ms{reason}")


def test_logs_without_debug_have_no_line_for_each_call(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        UNTRACED.begin(GENERATE, "r", None).end("OK")
    assert caplog.records == []


def test_the_callers_trace_goes_on_where_nothing_is_recorded() -> None:
    call = UNTRACED.begin(GENERATE, "r", TRACE)
    assert (call.trace, call.span) == (TRACE, None)
    assert isinstance(call, Call)
    assert Calls(None).begin(GENERATE, "r", None).trace is None


# The Redis client imports it where it can, for metrics of its own.
WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from quire.services.common.tracing import tracing
from quire.services.executor.main import Settings as Executor
from quire.services.frontend.main import Settings as Frontend
from quire.services.scheduler.main import Settings as Scheduler
for settings in (Executor, Frontend, Scheduler):
    with tracing(settings(), "service") as tracer:
        assert tracer is None
"""


def test_services_that_trace_nothing_import_no_opentelemetry() -> None:
    run([sys.executable, "-c", WITHOUT], check=True)
