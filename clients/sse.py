"""Server-sent events of an OpenAI stream, read after the fact."""

import json
from collections.abc import Iterable, Iterator
from typing import Any


def events(parts: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, Any]]:
    """The JSON of every event with the time at which its last byte came; "[DONE]" is None."""
    rest = b""
    for moment, part in parts:
        *blocks, rest = (rest + part).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            lines = [line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]
            if lines:
                data = b"\n".join(lines)
                yield moment, None if data == b"[DONE]" else json.loads(data)
