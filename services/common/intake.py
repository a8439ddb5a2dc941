"""What requests may bring. Parsing a large one holds the event loop for milliseconds: never two of them in a row."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from quire.engine.api.errors import Overloaded
from quire.protos.channel import MAX_REQUEST_BYTES

T = TypeVar("T")
# Bytes that take no time worth waiting for.
SMALL_BYTES: Final = 32 * 1024
# Of all requests whose bodies are being received, or that wait to be parsed.
MAX_HELD_BYTES: Final = 256 * 1024 * 1024


class Intake:
    """Parses large requests one after another; between two of them others have the loop for as long as the first took.

    Args:
        max_bytes: of one request.
        max_held_bytes: of all large requests that are held; a single one may have more.

    Attributes:
        max_bytes: as given.
    """

    def __init__(self, max_bytes: int = MAX_REQUEST_BYTES, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self.max_bytes = max_bytes
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, when its turn has come."""
        async with self._turn:
            began = time.perf_counter()
            try:
                return work()
            finally:
                await asyncio.sleep(time.perf_counter() - began)

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Gives a function that counts further bytes of one request, as held until the block ends.

        Raises:
            Overloaded: of that function: too many bytes are held.
        """
        size = 0

        def add(num_bytes: int) -> None:
            nonlocal size
            held = self._held_bytes
            if held > size and held + num_bytes > self._max_held_bytes:
                message = f"large requests of {held} bytes are being read, and {self._max_held_bytes} is the most"
                raise Overloaded(message, retry_after=1.0)
            size += num_bytes
            self._held_bytes += num_bytes

        try:
            yield add
        finally:
            self._held_bytes -= size
