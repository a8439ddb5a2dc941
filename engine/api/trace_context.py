"""The caller's trace that a request belongs to: W3C Trace Context, https://www.w3.org/TR/trace-context/."""

import re
from dataclasses import dataclass
from typing import Self

# Version, trace id, parent id, flags; a later version may go on behind them.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x20-\x7e]*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e\t]*")
_LENGTH_OF_VERSION_0 = 55
MAX_TRACEPARENT = 256
MAX_TRACESTATE = 512
"""Characters; more are dropped, as the recommendation allows."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Two header fields, as they came.

    Attributes:
        traceparent: version, trace id, parent id and flags in hexadecimal, such as
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".
        tracestate: entries of tracing systems, separated by commas.
    """

    traceparent: str
    tracestate: str = ""

    @classmethod
    def read(cls, traceparent: str | None, tracestate: str | None = None) -> Self | None:
        """None for what is no trace context: the recommendation wants such a call served as one without."""
        if traceparent is None or len(traceparent) > MAX_TRACEPARENT or not _TRACEPARENT.fullmatch(traceparent):
            return None
        if traceparent.startswith("00") and len(traceparent) != _LENGTH_OF_VERSION_0:
            return None
        if tracestate is None or len(tracestate) > MAX_TRACESTATE or not _TRACESTATE.fullmatch(tracestate):
            tracestate = ""
        return cls(traceparent, tracestate)

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return self.traceparent[36:52]

    @property
    def is_sampled(self) -> bool:
        """Whether its caller may have recorded it; then all that is done for it is to be recorded, too."""
        return bool(int(self.traceparent[53:55], 16) & 1)
