"""The trace context among the header fields of an HTTP request or the metadata of a gRPC call."""

from collections.abc import Iterable

from quire.engine.api.trace_context import TraceContext


def caller_trace(fields: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """None if there is none, or more than one.

    Args:
        fields: names in lower case, and values.
    """
    parents, states = [], []
    for name, value in fields:
        if name == "traceparent":
            parents.append(str(value))
        elif name == "tracestate":
            states.append(str(value))
    # One list may come in several fields.
    return TraceContext.read(parents[0], ",".join(states)) if len(parents) == 1 else None
