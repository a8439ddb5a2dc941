"""An HTTP server inside the frontend's own event loop and life."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from quire.engine.api.errors import StartupError
from quire.services.common.address import bound_socket
from quire.services.common.certificates import ServerCertificates
from quire.services.frontend.http.acceptor import Acceptor
from quire.services.frontend.http.limits import HttpLimits

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
POLL_SECONDS = 0.01
_CLOSE: Final = (b"connection", b"close")


class HttpServer:
    """One that runs.

    Args:
        server: uvicorn's.
        acceptor: of its connections.
    """

    def __init__(self, server: uvicorn.Server, acceptor: Acceptor) -> None:
        self._server = server
        self._acceptor = acceptor

    @property
    def num_connections(self) -> int:
        """Open now."""
        return len(self._server.server_state.connections)

    async def leave(self, seconds: float) -> None:
        """Takes no more connections; those that there are close behind their next answer, which says so.

        Returns after `seconds`, in which requests that are on their way arrive, or when no connection is left. One that
        has brought no request for so long is closed.
        """
        config, state = self._server.config, self._server.server_state
        # uvicorn makes the second of the first once a second.
        config.encoded_headers.append(_CLOSE)
        state.default_headers.append(_CLOSE)
        await self._acceptor.leave(seconds)
        end = time.monotonic() + seconds
        while state.connections and time.monotonic() < end:
            await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def http_serving(
    listen: str,
    app: ASGIApp,
    limits: HttpLimits,
    grace: int,
    shares_port: bool = False,
    certificates: ServerCertificates | None = None,
) -> AsyncIterator[HttpServer]:
    """Serves `app` at `listen` ("host:port", port 0 chooses) within `limits` while the context is open.

    With certificates it speaks HTTPS. Connections to a shared port are spread over all who listen there. When the
    context is left, requests have `grace` seconds to end before they are cancelled.

    Raises:
        StartupError: the address cannot be listened on.
    """
    try:
        listener = bound_socket(listen, shares_port)
    except OSError as error:
        raise StartupError(f"--http-listen {listen}: cannot listen there: {error.strerror}") from error
    config = uvicorn.Config(
        app,
        log_config=None,
        # Its warnings are about the behaviour of peers.
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=grace,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([]))
    acceptor = Acceptor(listener, limits, server, certificates)
    acceptor.start()
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(POLL_SECONDS)
        scheme = "http" if certificates is None else "https"
        logger.info("listening on %s://%s:%d", scheme, listen.rpartition(":")[0], listener.getsockname()[1])
        yield HttpServer(server, acceptor)
    finally:
        await acceptor.leave(0)
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Leaves signals to the service that it is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
