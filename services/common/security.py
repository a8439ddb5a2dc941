"""Whom a service lets in. Knows certificates and the token that services share, and no users."""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from quire.engine.api.errors import RequestError, Unavailable
from quire.services.common.certificates import ServerCertificates

logger = logging.getLogger(__name__)

_HEALTH: Final = "/grpc.health.v1.Health/"
_COMPLAINT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """Whom a gRPC port lets in. The default is everybody, in plain text.

    Attributes:
        certificates: the port speaks TLS with these; None: plain text.
        tokens: a call must bring one of them, unless it asks for health; none: every call passes.
        has_reflection: whether the port tells its protocols to whoever asks.
    """

    certificates: ServerCertificates | None = None
    tokens: tuple[str, ...] = ()
    has_reflection: bool = True

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Makes the server listen at "host:port"; returns the port.

        Raises:
            RuntimeError: it cannot listen there.
        """
        if self.certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self.certificates.grpc_credentials())


OPEN: Final = ServerSecurity()


def log_refusal(method: str, peer: str, error: RequestError) -> None:
    """A line for each call that a service refuses another, unless it cannot serve any: there should be none."""
    if not isinstance(error, Unavailable):
        logger.warning("%s of %s is refused: %s", method.rpartition("/")[2], peer, error)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses whoever does not know the services' token."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._expected = tuple(f"Bearer {token}".encode() for token in tokens)
        self._silent_until = 0.0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        method = handler_call_details.method
        if method.startswith(_HEALTH) or self._knows(handler_call_details):
            return await continuation(handler_call_details)
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _COMPLAINT_SECONDS
            logger.warning("a call of %s is refused: it does not bring the services' token", method)
        return grpc.stream_stream_rpc_method_handler(_refuse)

    def _knows(self, call: grpc.HandlerCallDetails) -> bool:
        found = [value for name, value in call.invocation_metadata or () if name == "authorization"]
        if len(found) != 1:
            return False
        given = found[0].encode() if isinstance(found[0], str) else found[0]
        return any(hmac.compare_digest(given, expected) for expected in self._expected)


async def _refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED, "authorization: must be Bearer and the token that the services share"
    )
