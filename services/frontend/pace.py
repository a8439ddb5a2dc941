"""How often requests are told of new tokens: the busier the event loop, the more tokens at a time."""

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from quire.engine.open_request import OpenRequest

# Between two rounds, as a share of the time that the first one took. What is left goes to reading.
REST_SHARE: Final = 0.5
# No executor makes tokens as often.
MIN_REST_SECONDS: Final = 0.001


class Pace:
    """Tells requests in rounds. A piece of text costs far more than a token in it.

    While a round's pieces are written nothing is lost: tokens gather in their requests. A round that took long is
    followed by a rest, in which further steps are read, so that the next one has more tokens in each piece. With time
    to spare every step is a round of its own.

    Args:
        on_round: called in each round with those who are about to be told, and `time.monotonic`.
    """

    def __init__(self, on_round: Callable[[Collection[OpenRequest], float], None] | None = None) -> None:
        self._on_round = on_round
        self._waiting: dict[OpenRequest, None] = {}
        self._next_round = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def announce(self, request: OpenRequest) -> None:
        """It has a new token."""
        self._waiting[request] = None

    def forget(self, request: OpenRequest) -> None:
        """It has been told of its end, or nobody waits for it any more."""
        self._waiting.pop(request, None)

    def end_step(self) -> None:
        """All tokens of a step are announced."""
        if not self._waiting or self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_round:
            self._tell()
        else:
            self._timer = loop.call_at(self._next_round, self._tell)

    def _tell(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._on_round is not None:
            self._on_round(waiting, began)
        for request in waiting:
            request.tell()
        # Runs behind those who were told.
        loop.call_soon(self._rest, began)
        self._next_round = began + MIN_REST_SECONDS

    def _rest(self, began: float) -> None:
        now = asyncio.get_running_loop().time()
        self._next_round = now + max(MIN_REST_SECONDS, REST_SHARE * (now - began))
