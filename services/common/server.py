"""A gRPC server with health, reflection and readable refusals, as every service runs one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.engine.api.errors import StartupError
from quire.engine.garbage import freeze_gc
from quire.protos.channel import DEFAULT_KEEPALIVE, MAX_MESSAGE_BYTES, MIN_KEEPALIVE_SECONDS, Keepalive
from quire.services.common.address import bound_socket
from quire.services.common.health import ENDS, Health
from quire.services.common.intake import Intake
from quire.services.common.interceptor import OnRefusal, RefusalInterceptor
from quire.services.common.reflection import enable_reflection
from quire.services.common.security import OPEN, ServerSecurity, TokenInterceptor

logger = logging.getLogger(__name__)

# Grace of a server that another call of its `stop` will end.
_UNTIL_STOPPED: Final = 86_400.0
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
    on_refusal: OnRefusal | None = None,
    security: ServerSecurity = OPEN,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    leaving: asyncio.Event | None = None,
    shares_port: bool = False,
) -> AsyncIterator[Health]:
    """Runs a server at `listen` ("host:port") while the context is open; NOT_SERVING until `Health.set("")`.

    A client that leaves a message unread for `write_seconds` loses its call, one that hangs is given up by `keepalive`.
    The intake, if there is one, bounds messages and parses large ones. gRPC itself receives twice the bound, so that
    most of what is too large is refused with the numbers. A server with an address of its own listens there, too.
    One that `shares_port` has others like it at `listen`: the kernel spreads connections over them. `on_refusal` is
    called with each error that a call ends with; `security` says whom `listen` lets in. Behind all these come further
    `interceptors`.
    Once `leaving` is set, nobody listens any more, and connections are told to call elsewhere (GOAWAY); the calls that
    run go on. When the context is left, they have `grace` seconds to end before they are cancelled.

    Raises:
        StartupError: the address cannot be listened on.
    """
    health = Health(names)
    max_bytes = MAX_MESSAGE_BYTES if intake is None else 2 * intake.max_bytes
    # Two services on one port would share its connections at random; the second must fail instead.
    reuse = ("grpc.so_reuseport", int(shares_port))
    options = [*SERVER_OPTIONS, reuse, *keepalive.options, ("grpc.max_receive_message_length", max_bytes)]
    checks = [TokenInterceptor(security.tokens)] if security.tokens else []
    refusing = RefusalInterceptor(write_seconds, intake, on_refusal)
    server = grpc.aio.server(options=options, interceptors=[*checks, refusing, *interceptors])
    register(server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if security.has_reflection:
        enable_reflection([*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name], server)
    try:
        port = security.add_port(server, listen)
    except RuntimeError as error:
        raise StartupError(f"--listen {listen}: cannot listen there: {_why_not(listen)}") from error
    if own_address:
        server.add_insecure_port(own_address)
    await health.set("it starts")
    await server.start()
    logger.info("listening on %s:%d", listen.rpartition(":")[0], port)
    freeze_gc()
    going = None if leaving is None else asyncio.create_task(_send_away(server, leaving))
    try:
        yield health
    finally:
        await health.set(ENDS)
        await server.stop(grace)
        if going is not None:
            going.cancel()
            await asyncio.wait((going,))


async def _send_away(server: grpc.aio.Server, leaving: asyncio.Event) -> None:
    await leaving.wait()
    await server.stop(_UNTIL_STOPPED)


def _why_not(listen: str) -> str:
    """gRPC says only that it cannot listen."""
    try:
        bound_socket(listen).close()
    except OSError as error:
        return error.strerror or str(error)
    return "somebody listens there already"
