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
        self._loop = asyncio.get_running_loop()
        self._retrying: asyncio.TimerHandle | None = None
        self._beginning: set[asyncio.Task[None]] = set()
        self._waiting: dict[LimitedProtocol, None] = {}
        self._silent_until = 0.0

    def start(self) -> None:
        """Takes connections until `leave`."""
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._listen()

    async def leave(self, seconds: float) -> None:
        """Takes those that have come, and no more. One that has no request is closed after `seconds`."""
        if self._listener.fileno() < 0:
            return
        if self._retrying is not None:
            self._retrying.cancel()
        self._loop.remove_reader(self._listener)
        # Nothing else runs until it is closed: what comes in between would be lost.
        self._take_all()
        self._listener.close()
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=seconds)
        for protocol in self._server.server_state.connections:
            assert isinstance(protocol, LimitedProtocol)
            protocol.leave(seconds)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._on_connections)

    def _on_connections(self) -> None:
        if (error := self._take_all()) is not None:
            self._complain(f"a connection cannot be accepted: {error.strerror}")
            self._drop_one()
            self._loop.remove_reader(self._listener)
            self._retrying = self._loop.call_later(_RETRY_SECONDS, self._listen)

    def _take_all(self) -> OSError | None:
        """Why not all that have come could be taken."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                return error
            num_open = len(self._server.server_state.connections) + len(self._beginning)
            if num_open < self._limits.max_connections or self._drop_one():
                self._begin(connection)
            else:
                self._complain(f"{self._limits.max_connections} connections have requests, as many as may be open")
                _refuse(connection)

    def _begin(self, connection: socket.socket) -> None:
        """Nobody waits for another's handshake."""
        context = None if self._certificates is None else self._certificates.context()
        task = self._loop.create_task(self._serve(connection, context))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _serve(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        def make() -> LimitedProtocol:
            return LimitedProtocol(self._limits, self._waiting, self._server.config, self._server.server_state)

        seconds = None if context is None else self._limits.header_seconds
        try:
            await self._loop.connect_accepted_socket(make, connection, ssl=context, ssl_handshake_timeout=seconds)
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
