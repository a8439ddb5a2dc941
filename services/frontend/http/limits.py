"""How much of the frontend one HTTP peer may take."""

import resource
from dataclasses import dataclass
from typing import Final

# Files that are left to gRPC's connections, logs and models.
_RESERVED_FILES: Final = 128


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of what peers send, and of how long they take.

    Attributes:
        max_connections: open at once; with more, the one that has waited longest for a request is closed.
        max_header_bytes: of a request's line and header fields.
        header_seconds: from a connection, or a request's first byte, to the end of its header fields.
        body_seconds: from there to the end of the body.
        write_seconds: how long a peer may leave what is written unread.
    """

    max_connections: int
    max_header_bytes: int
    header_seconds: float
    body_seconds: float
    write_seconds: float


def raise_file_limit() -> int:
    """Lets this process open as many files as it may at all; returns how many connections that leaves room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 2**31 if hard == resource.RLIM_INFINITY else max(1, hard - _RESERVED_FILES)
