"""Streams of an asyncio client that share one call of its frontend."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import TypeAlias

import grpc
from google.protobuf.empty_pb2 import Empty

from quire.engine.api.errors import QuireError, Unavailable
from quire.protos.channel import MAX_REQUEST_BYTES
from quire.protos.status import from_failure, from_rpc_error
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

_Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.GenerateManyRequest, pb.GenerateManyResponse]"
_Parts: TypeAlias = "asyncio.Queue[pb.GenerateManyPart | QuireError]"
_Requests: TypeAlias = "asyncio.Queue[pb.GenerateManyRequest]"
# A larger one would end the call, and all others with it; a little is for what is around it.
_MAX_BYTES = MAX_REQUEST_BYTES - 64


class Multiplexer:
    """Makes a GenerateMany call when the first stream is asked for, and another one when that has ended.

    Args:
        stub: of the client's channel.
        metadata: of each call.
    """

    def __init__(
        self, stub: "inference_pb2_grpc.InferenceServiceAsyncStub", metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)
        self._numbers = itertools.count(1)
        self._streams: dict[int, _Parts] = {}
        self._outgoing: _Requests = asyncio.Queue()
        self._call: asyncio.Task[None] | None = None

    async def stream(
        self, request: pb.GenerateRequest, timeout: float | None
    ) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        """The request's responses; closing the iteration cancels it on the server.

        Args:
            timeout: seconds from beginning to end.

        Raises:
            QuireError: the request has failed, or the call.
        """
        if (size := request.ByteSize()) > _MAX_BYTES:
            raise QuireError(f"RESOURCE_EXHAUSTED: the request has {size} bytes, at most {_MAX_BYTES} can be sent")
        number = next(self._numbers)
        parts: _Parts = asyncio.Queue()
        self._connect()
        self._streams[number] = parts
        self._outgoing.put_nowait(pb.GenerateManyRequest(number=number, generate=request))
        timer = None
        if timeout is not None:
            late = QuireError(f"DEADLINE_EXCEEDED: not done within {timeout:g} s")
            timer = asyncio.get_running_loop().call_later(timeout, self._end, number, late)
        try:
            is_over = False
            while not is_over:
                part = await parts.get()
                if isinstance(part, QuireError):
                    raise part
                if part.HasField("failure"):
                    raise from_failure(part.failure)
                is_over = part.response.HasField("finish")
                yield part.response
        finally:
            if timer is not None:
                timer.cancel()
            self._end(number)

    async def close(self) -> None:
        """Ends the call and all streams."""
        if self._call is not None:
            self._call.cancel()
            await asyncio.gather(self._call, return_exceptions=True)

    def _end(self, number: int, error: QuireError | None = None) -> None:
        """Cancels a stream, unless its last part has come."""
        if parts := self._streams.pop(number, None):
            self._outgoing.put_nowait(pb.GenerateManyRequest(number=number, cancel=Empty()))
            if error is not None:
                parts.put_nowait(error)

    def _connect(self) -> None:
        if self._call is None or self._call.done():
            # Each call has its own: its end goes to its own streams, also when there is another call by then.
            self._streams, self._outgoing = {}, asyncio.Queue()
            self._call = asyncio.create_task(
                self._converse(self._stub.GenerateMany(metadata=self._metadata), self._outgoing)
            )
            self._call.add_done_callback(partial(_end_all, self._streams))

    async def _converse(self, call: _Call, requests: _Requests) -> None:
        writer = asyncio.create_task(_write(call, requests))
        try:
            async for message in call:
                for part in message.parts:
                    self._receive(part)
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def _receive(self, part: pb.GenerateManyPart) -> None:
        if parts := self._streams.get(part.number):
            parts.put_nowait(part)
            if part.HasField("failure") or part.response.HasField("finish"):
                del self._streams[part.number]


def _end_all(streams: dict[int, _Parts], call: asyncio.Task[None]) -> None:
    for parts in streams.values():
        # One for each, as each raises its own.
        parts.put_nowait(_reason(call))
    streams.clear()


async def _write(call: _Call, requests: _Requests) -> None:
    while True:
        await call.write(await requests.get())


def _reason(call: asyncio.Task[None]) -> QuireError:
    if call.cancelled():
        return QuireError("CANCELLED: the client was closed")
    error = call.exception()
    if isinstance(error, grpc.RpcError):
        return from_rpc_error(error)
    return Unavailable("the frontend has ended the call") if error is None else QuireError(f"unexpected {error!r}")
