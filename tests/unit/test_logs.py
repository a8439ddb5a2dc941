"""One line or object per message, whatever peers call themselves, and which request it is about."""

import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from quire.engine.api.trace_context import TraceContext
from quire.services.common.logs import REQUEST, JsonFormatter, OneLineFormatter, escaped, request_fields

TRACE = TraceContext(f"00-{'ab' * 16}-{'cd' * 8}-01")
FORGED = "peer\n12:00:00.000 INFO    quire.services: all is well"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Füße 😀中", "Füße 😀中"),
        (FORGED, FORGED.replace("\n", "\\n")),
        ("a\r\x1b[2Kb\x00", "a\\r\\x1b[2Kb\\x00"),
        ("a\x85b\u2028c\u202ed", "a\\x85b\\u2028c\\u202ed"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_neither_arguments_nor_tracebacks_begin_a_line() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        failure = sys.exc_info()
    record = logging.LogRecord("quire", logging.INFO, __file__, 1, "connected: %s", (FORGED,), failure, sinfo=FORGED)
    first, *others = OneLineFormatter("%(name)s: %(message)s").format(record).split("\n")
    assert first == f"quire: connected: {escaped(FORGED)}"
    assert others[0].startswith("    Traceback")
    assert all(line.startswith("    ") for line in others)


def record(message: str = "ended: %s", *arguments: object, **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("quire").makeRecord("quire", logging.ERROR, __file__, 1, message, arguments, None)
    vars(made).update(extra)
    return made


@pytest.fixture
def request_is_served() -> Iterator[None]:
    token = REQUEST.set(request_fields("r-1", TRACE))
    yield
    REQUEST.reset(token)


@pytest.mark.usefixtures("request_is_served")
def test_lines_name_the_request_that_is_served() -> None:
    about = {"request_id": "r-1", "trace_id": TRACE.trace_id, "span_id": TRACE.span_id}
    line = json.loads(JsonFormatter("frontend").format(record("refused")))
    assert line == line | about
    assert OneLineFormatter("%(message)s").format(record("refused")) == (
        f"refused [request_id=r-1 trace_id={TRACE.trace_id}]"
    )


@pytest.mark.usefixtures("request_is_served")
def test_a_line_about_another_request_names_that() -> None:
    other = record("refused", **request_fields("r-2\n"))
    assert json.loads(JsonFormatter("frontend").format(other))["request_id"] == "r-2\n"
    assert OneLineFormatter("%(message)s").format(other) == f"refused [request_id=r-2\\n trace_id={TRACE.trace_id}]"


def test_lines_about_no_request_name_none() -> None:
    assert OneLineFormatter("%(message)s").format(record("SERVING")) == "SERVING"


def test_an_object_has_the_same_fields_each_time() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        failure = sys.exc_info()
    # What a caller gives cannot pass for what a line says of itself.
    made = record("ended: %s", FORGED, exc_info=failure, status=503, service="forged", where={1: object})
    text = JsonFormatter("scheduler").format(made)
    assert text.isprintable()
    line = json.loads(text)
    assert list(line) == ["time", "level", "logger", "message", "service", "exception", "status", "where"]
    assert line["time"].endswith("Z")
    assert datetime.fromisoformat(line["time"]).timestamp() == pytest.approx(made.created, abs=0.001)
    assert (line["level"], line["logger"], line["message"]) == ("error", "quire", f"ended: {FORGED}")
    assert (line["service"], line["status"]) == ("scheduler", 503)
    assert line["exception"].startswith("Traceback")


def test_what_is_no_unicode_is_still_json() -> None:
    assert json.loads(JsonFormatter("frontend").format(record("\ud800")))["message"] == "\ud800"
