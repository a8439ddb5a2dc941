"""What is a trace context, and what is served as if none had come."""

import pytest

from quire.engine.api.trace_context import TraceContext
from quire.services.frontend.caller_trace import caller_trace

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize("traceparent", [GOOD, f"00-{TRACE}-{PARENT}-ff", f"cc-{TRACE}-{PARENT}-01-what-comes-later"])
def test_a_trace_context_is_kept_as_it_came(traceparent: str) -> None:
    assert TraceContext.read(traceparent, "a=1,b=2") == TraceContext(traceparent, "a=1,b=2")
    assert TraceContext.read(traceparent) == TraceContext(traceparent)


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01more",
        f"cc-{TRACE}-{PARENT}-01-{'x' * 256}",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01\n",
    ],
)
def test_what_is_none_is_dropped(traceparent: str | None) -> None:
    assert TraceContext.read(traceparent, "a=1") is None


@pytest.mark.parametrize("tracestate", [None, "", "a=" + 511 * "x", "a=\n", "ä=1"])
def test_a_wrong_state_is_dropped_alone(tracestate: str | None) -> None:
    assert TraceContext.read(GOOD, tracestate) == TraceContext(GOOD)


def test_fields_of_a_call() -> None:
    others = [("user-agent", "x"), ("grpc-trace-bin", b"\x00")]
    assert caller_trace(others) is None
    fields = [("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2")]
    assert caller_trace([*others, *fields]) == TraceContext(GOOD, "a=1,b=2")
    assert caller_trace([("traceparent", GOOD), ("traceparent", GOOD)]) is None
