"""API keys in gRPC calls."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final

import grpc

from quire.engine.api.errors import RequestError
from quire.services.frontend.tenants.api_keys import CALLER, ApiKeys

# Probes bring no key. Workers show each other who they are in another way.
_OPEN: Final = (
    "/grpc.health.v1.Health/",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/quire.internal.v1.WorkerService/",
)


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Refuses whoever brings no key that is known; others serve the call as its caller's.

    Args:
        keys: of the frontend.
    """

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN):
            return handler
        metadata = handler_call_details.invocation_metadata or ()
        try:
            CALLER.set(self._keys.caller(value for name, value in metadata if name == "authorization"))
        except RequestError as error:
            return grpc.stream_stream_rpc_method_handler(partial(_refuse, error))
        return handler


async def _refuse(error: RequestError, requests: Any, context: Any) -> AsyncIterator[Any]:
    """Ends a call with this error, before it is read."""
    raise error
    yield  # a generator, as the handlers of streams are
