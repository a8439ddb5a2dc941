"""Takes connections from a listening socket, as many as may be open.

asyncio's own server logs a traceback for each of thousands of failures a second when a process has no file left.
"""

import asyncio
import logging
import socket
import time
from typing import Final

import uvicorn

from quire.services.frontend.http.errors import Refusal
from quire.services.frontend.http.limits import HttpLimits
from quire.services.frontend.http.protocol import LimitedProtocol, refusal_bytes

logger = logging.getLogger(__name__)

BACKLOG: Final = 2048
_RETRY_SECONDS: Final = 0.1
_COMPLAINT_SECONDS: Final = 60.0
_FULL: Final = refusal_bytes(
    Refusal(503, "too many connections", "unavailable_error", code="unavailable", retry_after=1.0)
)


class Acceptor:
    """For one server.

    Args:
        listener: a bound socket.
        limits: of each connection, and of their number.
        server: uvicorn's, which ends the connections with itself.
    """

    def __init__(self, listener: socket.socket, limits: HttpLimits, server: uvicorn.Server) -> None:
        self._listener = listener
        self._limits = limits
        self._server = server
        self._waiting: dict[LimitedProtocol, None] = {}
        self._silent_until = 0.0

    async def run(self) -> None:
        """Runs until cancelled."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                self._complain(f"a connection cannot be accepted: {error.strerror}")
                self._drop_one()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if len(self._server.server_state.connections) < self._limits.max_connections or self._drop_one():
                await self._serve(connection)
            else:
                self._complain(f"{self._limits.max_connections} connections have requests, as many as may be open")
                _refuse(connection)

    async def _serve(self, connection: socket.socket) -> None:
        def make() -> LimitedProtocol:
            return LimitedProtocol(self._limits, self._waiting, self._server.config, self._server.server_state)

        try:
            await asyncio.get_running_loop().connect_accepted_socket(make, connection)
        except OSError:  # gone already
            connection.close()

    def _drop_one(self) -> bool:
        """Closes the connection that has waited longest for a request; False if all have one."""
        for protocol in self._waiting:
            protocol.drop()
            return True
        return False

    def _complain(self, message: str) -> None:
        """Not for every connection."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _COMPLAINT_SECONDS
            logger.warning("%s", message)


def _refuse(connection: socket.socket) -> None:
    with connection:
        try:
            connection.send(_FULL)
        except OSError:
            return
