"""gRPC statuses as errors of `quire.engine.api.errors`, the same for both clients, and the statuses of such errors.

INVALID_ARGUMENT     InvalidRequest
RESOURCE_EXHAUSTED   Overloaded, if the server says when to try again; else it is a limit of the transport
UNAVAILABLE          Unavailable
UNAUTHENTICATED      Unauthenticated
PERMISSION_DENIED    Forbidden
any other            QuireError, with the status's name in front
"""

import re
from urllib.parse import unquote

import grpc
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from quire.engine.api.errors import (
    Forbidden,
    InvalidRequest,
    Overloaded,
    QuireError,
    RequestError,
    Unauthenticated,
    Unavailable,
    UnknownModel,
)
from quire.v1 import inference_pb2 as pb

# As gRPC's core puts it.
_NO_CONNECTION = re.compile(r"last error: \w+: \w+:(?://)?(\S+): (?:Failed to connect to remote host: )?(.*)")
_NO_ADDRESS = re.compile(r"address lookup failed for ([^\s:]+)\S*: ([^\]]*)")
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class RefusedRequest(InvalidRequest):
    """An `InvalidRequest` that a server raised: its message as it came, taken apart where it has the usual form.

    Attributes:
        field, limit, value: as text; "" for what the message does not say.
    """

    def __init__(self, message: str) -> None:
        RequestError.__init__(self, message)
        field, colon, rest = message.partition(": ")
        self.field = field if colon else ""
        self.limit, _, self.value = (rest if colon else message).partition(", got ")


def from_rpc_error(error: grpc.RpcError) -> QuireError:
    """The error of a failed call."""
    if not isinstance(error, (grpc.Call, grpc.aio.AioRpcError)):
        return QuireError(str(error))
    return _from_status(error.code(), readable(error.details() or ""), _retry_after(error))


def readable(details: str) -> str:
    """The text of a status; where the call did not reach a server, the address and the reason alone."""
    if found := _NO_CONNECTION.search(details):
        return f"cannot connect to {unquote(found[1])}: {found[2]}"
    if found := _NO_ADDRESS.search(details):
        return f"cannot find {found[1]}: {found[2]}"
    return details


def from_failure(failure: pb.GenerateFailure) -> QuireError:
    """The error of a failed request in a call of many."""
    retry_after = failure.retry_delay.ToTimedelta().total_seconds() if failure.HasField("retry_delay") else None
    return _from_status(_CODES.get(failure.code, grpc.StatusCode.UNKNOWN), failure.message, retry_after)


def code_of(error: RequestError) -> int:
    """The google.rpc.Code that a server answers with."""
    code: int = code_pb2.INTERNAL
    if isinstance(error, InvalidRequest):
        code = code_pb2.INVALID_ARGUMENT
    elif isinstance(error, UnknownModel):
        code = code_pb2.NOT_FOUND
    elif isinstance(error, Overloaded):
        code = code_pb2.RESOURCE_EXHAUSTED
    elif isinstance(error, Unavailable):
        code = code_pb2.UNAVAILABLE
    elif isinstance(error, Unauthenticated):
        code = code_pb2.UNAUTHENTICATED
    elif isinstance(error, Forbidden):
        code = code_pb2.PERMISSION_DENIED
    return code


def code_name(error: QuireError) -> str:
    """The status's name of an error that a client raised."""
    return _CODES[code_of(error)].name if isinstance(error, RequestError) else str(error).partition(":")[0]


def retry_delay(error: RequestError) -> float | None:
    """Seconds after which the same request may be sent again; None: it would fail again."""
    if isinstance(error, Overloaded):
        return error.retry_after
    return 1.0 if error.retryable else None


def _from_status(code: grpc.StatusCode, message: str, retry_after: float | None) -> QuireError:
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return RefusedRequest(message)
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(message)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(message)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return Forbidden(message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after is not None:
        return Overloaded(message, retry_after)
    return QuireError(f"{code.name}: {message}")


def _retry_after(error: grpc.Call | grpc.aio.AioRpcError) -> float | None:
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type,unused-ignore]
    except ValueError:  # details that contradict the status: not from one of our servers
        return None
    for detail in status.details if status else ():
        info = RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.ToTimedelta().total_seconds())
    return None
