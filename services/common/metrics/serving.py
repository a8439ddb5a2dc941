"""/metrics of a service that has no HTTP port of its own."""

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from quire.engine.api.errors import StartupError
from quire.services.common.address import bound_socket
from quire.services.common.metrics.meter import Meter

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Between two looks at whether the service ends.
_POLL_SECONDS: Final = 0.05


@asynccontextmanager
async def metrics_serving(listen: str, meter: Meter) -> AsyncIterator[None]:
    """Answers GET http://listen/metrics while the context is open.

    Args:
        listen: "host:port"; "": nothing is served.

    Raises:
        StartupError: the address cannot be listened on.
    """
    if not listen:
        yield
        return
    loop = asyncio.get_running_loop()
    try:
        listener = bound_socket(listen)
    except OSError as error:
        raise StartupError(f"--metrics-listen {listen}: cannot listen there: {error.strerror}") from error
    server = _Server(listener, partial(_Handler, meter, loop))
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="quire-metrics", daemon=True)
    thread.start()
    logger.info("metrics on http://%s:%d/metrics", listen.rpartition(":")[0], listener.getsockname()[1])
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


class _Server(ThreadingHTTPServer):
    """Of a socket that is bound: an IPv6 one or another."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, handler: Any) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has gone."""


class _Handler(BaseHTTPRequestHandler):
    """One connection, on a thread of its own; the text is written where the numbers are counted."""

    timeout = 10

    def __init__(self, meter: Meter, loop: asyncio.AbstractEventLoop, *args: Any) -> None:
        self._meter = meter
        self._loop = loop
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, explain="must be /metrics")
            return
        body = asyncio.run_coroutine_threadsafe(self._text(), self._loop).result().encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", MEDIA_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    async def _text(self) -> str:
        return self._meter.text()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it comes every few seconds."""
