"""Turns the engine's errors into gRPC statuses, and payloads that do not parse into INVALID_ARGUMENT."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from quire.engine.api.errors import InvalidRequest, RequestError, Unavailable
from quire.protos.status import code_of, retry_delay
from quire.services.common.intake import SMALL_BYTES, Intake
from quire.services.common.utf8 import find_broken_utf8

# Called with the method, the caller's address and what the call ends with.
OnRefusal: TypeAlias = Callable[[str, str, RequestError], None]


class RefusalInterceptor(grpc.aio.ServerInterceptor):
    """Every refusal leaves as a status that says why; other exceptions stay gRPC's UNKNOWN and are logged.

    Args:
        write_seconds: how long a client may leave a message of a stream unread; its call then ends. None: as long as
            it likes.
        intake: bounds messages and parses large ones; None: they are parsed as they come.
        on_refusal: called with each error that a call ends with.
    """

    def __init__(
        self,
        write_seconds: float | None = None,
        intake: Intake | None = None,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        self._on_refusal = on_refusal
        self._write_seconds = write_seconds
        self._intake = intake

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handler = await continuation(handler_call_details)
        if handler is None:
            return _without(handler_call_details.method)
        if handler.stream_unary is not None:
            return handler
        method = handler_call_details.method
        decode: Any = _tolerant(handler.request_deserializer, _input_type(method))
        if self._intake is not None:
            decode = _deferring(decode, self._intake.max_bytes)
        if handler.stream_stream is not None:
            both: Any = self._refusing(_writing(self._reading_each(handler.stream_stream), self._write_seconds), method)
            return grpc.stream_stream_rpc_method_handler(both, decode, handler.response_serializer)
        if handler.unary_unary is not None:
            unary: Any = self._refusing(self._reading_one(handler.unary_unary), method)
            return grpc.unary_unary_rpc_method_handler(unary, decode, handler.response_serializer)
        # Ours yield their answers; that of gRPC's health service is awaited and writes them to its context.
        stream: Any = handler.unary_stream
        if inspect.isasyncgenfunction(stream):
            stream = _writing(stream, self._write_seconds)
        stream = self._refusing(self._reading_one(stream), method)
        return grpc.unary_stream_rpc_method_handler(stream, decode, handler.response_serializer)

    def _refusing(self, behavior: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
        if self._on_refusal is None:
            return _refusing(behavior, None)
        return _refusing(behavior, partial(self._on_refusal, method))

    async def _read(self, message: Any) -> Any:
        """The message, parsed; raises what is wrong with it."""
        if isinstance(message, _Unread) and self._intake is not None:
            with self._intake.hold() as add:
                add(len(message.payload))
                message = await self._intake.run(partial(message.decode, message.payload))
        if isinstance(message, RequestError):
            raise message
        return message

    def _reading_one(self, behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            return await behavior(await self._read(request), context)

        return call

    def _reading_each(self, behavior: Any) -> Callable[..., AsyncIterator[Any]]:
        """The first message of the stream that does not parse raises."""

        async def read(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
            async for request in requests:
                yield await self._read(request)

        async def call(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            # gRPC's iterator is in a cycle with its latest message until it is closed.
            async with (
                aclosing(aiter(requests)) as received,
                aclosing(read(received)) as messages,
                aclosing(behavior(messages, context)) as responses,
            ):
                async for response in responses:
                    yield response

        return call


@dataclass(frozen=True, slots=True)
class _Unread:
    """A large message that is parsed when its turn comes."""

    payload: bytes
    decode: Callable[[bytes], Any]


def _without(method: str) -> "grpc.RpcMethodHandler[Any, Any]":
    """Answers a method that there is not, whether it streams or not."""

    async def call(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method.lstrip('/')}: there is no such method here")

    return grpc.stream_stream_rpc_method_handler(call)


def to_status(error: RequestError) -> status_pb2.Status:
    """The code of `code_of`; with google.rpc.RetryInfo where that can help."""
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


def _deferring(decode: Callable[[bytes], Any], max_bytes: int) -> Callable[[bytes], Any]:
    """A deserializer that leaves large messages for later, and refuses those that are too large."""

    def decode_small(payload: bytes) -> Any:
        if len(payload) <= SMALL_BYTES:
            return decode(payload)
        if len(payload) <= max_bytes:
            return _Unread(payload, decode)
        return InvalidRequest("request", len(payload), f"must be at most {max_bytes} bytes")

    return decode_small


def _refusing(
    behavior: Callable[..., Awaitable[Any]], on_refusal: Callable[[str, RequestError], None] | None
) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behavior(request, context)
        except RequestError as error:
            refusal = to_status(error)
            if on_refusal is not None:
                on_refusal(context.peer(), error)
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
