"""An HTTP server inside the frontend's own event loop and life."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

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


@asynccontextmanager
async def http_serving(
    listen: str,
    app: ASGIApp,
    limits: HttpLimits,
    grace: int,
    shares_port: bool = False,
    certificates: ServerCertificates | None = None,
) -> AsyncIterator[Callable[[], int]]:
    """Serves `app` at `listen` ("host:port", port 0 chooses) within `limits` while the context is open.

    What it gives says how many connections are open. With certificates it speaks HTTPS. Connections to a shared port
    are spread over all who listen there. On leaving, requests have `grace` seconds to end before they are cancelled.

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
    accepting = asyncio.create_task(Acceptor(listener, limits, server, certificates).run())
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(POLL_SECONDS)
        scheme = "http" if certificates is None else "https"
        logger.info("listening on %s://%s:%d", scheme, listen.rpartition(":")[0], listener.getsockname()[1])
        yield lambda: len(server.server_state.connections)
    finally:
        accepting.cancel()
        await asyncio.wait((accepting,))
        listener.close()
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """Leaves signals to the service that it is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
