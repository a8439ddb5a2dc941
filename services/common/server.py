"""A gRPC server with health, reflection and readable refusals, as every service runs one."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from quire.engine.api.errors import RequestError, StartupError
from quire.engine.garbage import freeze_gc
from quire.protos.channel import DEFAULT_KEEPALIVE, MAX_MESSAGE_BYTES, MIN_KEEPALIVE_SECONDS, Keepalive
from quire.services.common.address import bound_socket
from quire.services.common.intake import Intake
from quire.services.common.interceptor import RefusalInterceptor
from quire.services.common.reflection import enable_reflection
from quire.services.common.security import OPEN, ServerSecurity, TokenInterceptor

logger = logging.getLogger(__name__)

# The name to ask health for before a service that hangs is started again: SERVING as long as the process answers,
# whatever it can do now.
LIVE: Final = "live"
SERVER_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Half, as a peer's clock may run fast.
    ("grpc.http2.min_ping_interval_without_data_ms", round(500 * MIN_KEEPALIVE_SECONDS)),
    # Calls that have come and are not begun: with fewer, those of a burst would end as CANCELLED.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    # A peer has this long for its first bytes. An idle connection is closed; its client may connect again.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
]


class Health:
    """Whether the service can work now, as grpc.health.v1 reports it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = ("", *names)
        self.servicer = health.aio.HealthServicer()
        self._serving: bool | None = None

    async def set(self, serving: bool) -> None:
        """SERVING or NOT_SERVING, for the server as a whole and each of its services."""
        if serving == self._serving:
            return
        self._serving = serving
        logger.info("%s", "SERVING" if serving else "NOT_SERVING")
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            await self.servicer.set(name, status.SERVING if serving else status.NOT_SERVING)


@asynccontextmanager
async def serving(
    listen: str,
    names: Sequence[str],
    register: Callable[[grpc.aio.Server], None],
    grace: float,
    write_seconds: float | None = None,
    keepalive: Keepalive = DEFAULT_KEEPALIVE,
    intake: Intake | None = None,
    own_address: str = "",
    on_refusal: Callable[[RequestError], None] | None = None,
    security: ServerSecurity = OPEN,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> AsyncIterator[Health]:
    """Runs a server at `listen` ("host:port") while the context is open; NOT_SERVING until `Health.set(True)`.

    A client that leaves a message unread for `write_seconds` loses its call, one that hangs is given up by `keepalive`.
    The intake, if there is one, bounds messages and parses large ones. gRPC itself receives twice the bound, so that
    most of what is too large is refused with the numbers. A server with an address of its own listens there, too, and
    shares `listen` with others like it: the kernel spreads connections over them. `on_refusal` is called with each
    error that a call ends with; `security` says whom `listen` lets in. Behind all these come further `interceptors`.
    On leaving, calls have `grace` seconds to end before they are cancelled.

    Raises:
        StartupError: the address cannot be listened on.
    """
    health = Health(names)
    max_bytes = MAX_MESSAGE_BYTES if intake is None else 2 * intake.max_bytes
    # Two services on one port would share its connections at random; the second must fail instead.
    shares_port = ("grpc.so_reuseport", int(bool(own_address)))
    options = [*SERVER_OPTIONS, shares_port, *keepalive.options, ("grpc.max_receive_message_length", max_bytes)]
    checks = [TokenInterceptor(security.tokens)] if security.tokens else []
    refusing = RefusalInterceptor(write_seconds, intake, on_refusal)
    server = grpc.aio.server(options=options, interceptors=[*checks, refusing, *interceptors])
    register(server)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    if security.has_reflection:
        enable_reflection([*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name], server)
    try:
        port = security.add_port(server, listen)
    except RuntimeError as error:
        raise StartupError(f"--listen {listen}: cannot listen there: {_why_not(listen)}") from error
    if own_address:
        server.add_insecure_port(own_address)
    await health.set(False)
    await health.servicer.set(LIVE, health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    logger.info("listening on %s:%d", listen.rpartition(":")[0], port)
    freeze_gc()
    try:
        yield health
    finally:
        await health.set(False)
        await server.stop(grace)


def _why_not(listen: str) -> str:
    """gRPC says only that it cannot listen."""
    try:
        bound_socket(listen).close()
    except OSError as error:
        return error.strerror or str(error)
    return "somebody listens there already"
