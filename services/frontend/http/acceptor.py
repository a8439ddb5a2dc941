"""Takes connections from a listening socket, as many as may be open.

asyncio's own server logs a traceback for each of thousands of failures a second when a process has no file left.
"""

import asyncio
import logging
import socket
import ssl
import time
from typing import Final

import uvicorn

from quire.services.common.certificates import ServerCertificates
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
        certificates: connections are encrypted with these; None: they are plain text.
    """

    def __init__(
        self,
        listener: socket.socket,
        limits: HttpLimits,
        server: uvicorn.Server,
        certificates: ServerCertificates | None = None,
    ) -> None:
        self._listener = listener
        self._limits = limits
        self._server = server
        self._certificates = certificates
        self._handshakes: set[asyncio.Task[None]] = set()
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
            num_open = len(self._server.server_state.connections) + len(self._handshakes)
            if num_open < self._limits.max_connections or self._drop_one():
                await self._begin(connection)
            else:
                self._complain(f"{self._limits.max_connections} connections have requests, as many as may be open")
                _refuse(connection)

    async def _begin(self, connection: socket.socket) -> None:
        """Nobody waits for another's handshake."""
        if self._certificates is None:
            await self._serve(connection, None)
            return
        task = asyncio.create_task(self._serve(connection, self._certificates.context()))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _serve(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        def make() -> LimitedProtocol:
            return LimitedProtocol(self._limits, self._waiting, self._server.config, self._server.server_state)

        seconds = None if context is None else self._limits.header_seconds
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make, connection, ssl=context, ssl_handshake_timeout=seconds
            )
        except OSError as error:  # gone already, or it does not speak TLS as we do
            connection.close()
            if context is not None:
                logger.debug("a handshake failed: %s", error)

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
