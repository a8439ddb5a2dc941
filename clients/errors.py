"""How both clients report that a call failed or that a server is not ready."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from quire.engine.api.errors import QuireError, Unavailable
from quire.protos.status import from_rpc_error


@contextmanager
def translated(cancel: Callable[[], object] | None = None) -> Iterator[None]:
    """Turns the gRPC errors of a block into ours; `cancel` is called at its end, however it ends."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    finally:
        if cancel is not None:
            cancel()


def may_pass(error: QuireError) -> bool:
    """Whether a health check that failed like this may succeed when it is asked again."""
    codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    cause = error.__cause__
    return isinstance(cause, (grpc.Call, grpc.aio.AioRpcError)) and cause.code() in codes


def not_ready(address: str, timeout: float, seen: str) -> Unavailable:
    """The error of a server that did not become ready in time."""
    return Unavailable(f"{address} was not ready within {timeout:g} s: {seen}")
