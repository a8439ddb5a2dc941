"""Turns the engine's errors into gRPC statuses, and payloads that do not parse into INVALID_ARGUMENT."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from quire.engine.api.errors import InvalidRequest, RequestError, Unavailable
from quire.protos.status import code_of, retry_delay
from quire.services.common.utf8 import find_broken_utf8


class RefusalInterceptor(grpc.aio.ServerInterceptor):
    """Every refusal leaves as a status that says why; other exceptions stay gRPC's UNKNOWN and are logged.

    Args:
        write_seconds: how long a client may leave a message of a stream unread; its call then ends. None: as long as
            it likes.
    """

    def __init__(self, write_seconds: float | None = None) -> None:
        self._write_seconds = write_seconds

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handler = await continuation(handler_call_details)
        if handler is None or handler.stream_unary is not None:
            return handler
        decode: Any = _tolerant(handler.request_deserializer, _input_type(handler_call_details.method))
        if handler.stream_stream is not None:
            both: Any = _refusing(_writing(_reading(handler.stream_stream), self._write_seconds))
            return grpc.stream_stream_rpc_method_handler(both, decode, handler.response_serializer)
        if handler.unary_unary is not None:
            unary: Any = _refusing(handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(unary, decode, handler.response_serializer)
        # Ours yield their answers; that of gRPC's health service is awaited and writes them to its context.
        stream: Any = handler.unary_stream
        if inspect.isasyncgenfunction(stream):
            stream = _writing(stream, self._write_seconds)
        return grpc.unary_stream_rpc_method_handler(_refusing(stream), decode, handler.response_serializer)


def to_status(error: RequestError) -> status_pb2.Status:
    """INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE or INTERNAL; with google.rpc.RetryInfo where that can help."""
    status = status_pb2.Status(code=code_of(error), message=str(error))
    if (delay := retry_delay(error)) is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromMilliseconds(int(delay * 1000))
        status.details.add().Pack(info)
    return status


def _input_type(method: str) -> Descriptor:
    service, _, name = method.lstrip("/").partition("/")
    input_type: Descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
    return input_type


def _tolerant(decode: Any, input_type: Descriptor) -> Callable[[bytes], Any]:
    """A deserializer that returns what is wrong with a payload, as gRPC answers INTERNAL if it raises."""

    def decode_or_refuse(payload: bytes) -> Any:
        try:
            return decode(payload)
        except DecodeError:
            broken = find_broken_utf8(input_type, payload)
            if broken is not None:
                return InvalidRequest(broken[0], broken[1], "must be valid UTF-8")
            return InvalidRequest("request", payload, f"must be a {input_type.full_name} message")

    return decode_or_refuse


def _refusing(behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        refusal = to_status(request) if isinstance(request, RequestError) else None
        if refusal is None:
            try:
                return await behavior(request, context)
            except RequestError as error:
                refusal = to_status(error)
            except asyncio.CancelledError:
                # Its caller has gone, or the service ends. gRPC would log it as an error that nobody handled.
                if context.done():
                    return None
                refusal = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the service has ended")
        # gRPC keeps the exception by which it ends a call, in a cycle with this frame. The collector may come late, and
        # a request can be large: so it is let go here, and the error's frames above.
        del request
        return await context.abort_with_status(rpc_status.to_status(refusal))

    return call


def _writing(behavior: Any, write_seconds: float | None) -> Callable[..., Awaitable[None]]:
    """Writes what an asynchronous generator yields."""

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async with aclosing(behavior(request, context)) as responses:
            async for response in responses:
                await _write(context, response, write_seconds)

    return call


async def _write(context: grpc.aio.ServicerContext[Any, Any], response: Any, seconds: float | None) -> None:
    """Waits until the client's window has room for it.

    Raises:
        Unavailable: it had none for so long. The status stands behind the message.
    """
    try:
        async with asyncio.timeout(seconds):
            await context.write(response)
    except TimeoutError:
        raise Unavailable(f"the client has left a message unread for {seconds:g} s") from None


def _reading(behavior: Any) -> Callable[..., AsyncIterator[Any]]:
    """The first message of the stream that does not parse raises."""

    async def parsed(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        async for request in requests:
            if isinstance(request, RequestError):
                raise request
            yield request

    async def call(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        # gRPC's iterator is in a cycle with its latest message until it is closed.
        async with (
            aclosing(aiter(requests)) as received,
            aclosing(parsed(received)) as messages,
            aclosing(behavior(messages, context)) as responses,
        ):
            async for response in responses:
                yield response

    return call
