"""Streams of an asyncio client that share one call of its frontend."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
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
# A larger one would end the call, and all others with it; a little is for what is around it.
_MAX_BYTES = MAX_REQUEST_BYTES - 64


class Multiplexer:
    """Makes a GenerateMany call when the first stream is asked for, and another one when that has ended.

    Another one is made, too, when the frontend does not serve: it may be about to stop, and the channel leads the next
    call elsewhere then.

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
        self._newest: _SharedCall | None = None
        self._running: set[_SharedCall] = set()

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
        number, call = next(self._numbers), self._open_call()
        parts = call.begin(number, request)
        timer = None
        if timeout is not None:
            late = QuireError(f"DEADLINE_EXCEEDED: not done within {timeout:.3g} s")
            timer = asyncio.get_running_loop().call_later(timeout, call.end, number, late)
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
        except Unavailable:
            if self._newest is call:
                self._newest = None
            call.leave()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            call.end(number)

    async def close(self) -> None:
        """Ends all calls and streams."""
        running = [call.task for call in self._running]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _open_call(self) -> "_SharedCall":
        if self._newest is None or self._newest.task.done():
            self._newest = call = _SharedCall(self._stub.GenerateMany(metadata=self._metadata))
            self._running.add(call)
            call.task.add_done_callback(lambda _: self._running.discard(call))
        return self._newest


class _SharedCall:
    """One GenerateMany call.

    Attributes:
        task: done when the call has ended, and all its streams with it.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._streams: dict[int, _Parts] = {}
        self._outgoing: asyncio.Queue[pb.GenerateManyRequest] = asyncio.Queue()
        self._is_left = False
        self.task = asyncio.create_task(self._converse())
        self.task.add_done_callback(self._end_all)

    def begin(self, number: int, request: pb.GenerateRequest) -> _Parts:
        """What comes for a new stream."""
        parts: _Parts = asyncio.Queue()
        self._streams[number] = parts
        self._outgoing.put_nowait(pb.GenerateManyRequest(number=number, generate=request))
        return parts

    def end(self, number: int, error: QuireError | None = None) -> None:
        """Cancels a stream, unless its last part has come."""
        if parts := self._streams.pop(number, None):
            self._outgoing.put_nowait(pb.GenerateManyRequest(number=number, cancel=Empty()))
            if error is not None:
                parts.put_nowait(error)
            self._end_if_left()

    def leave(self) -> None:
        """No stream begins any more; the call ends with the last one."""
        self._is_left = True
        self._end_if_left()

    def _end_if_left(self) -> None:
        if self._is_left and not self._streams:
            self.task.cancel()

    async def _converse(self) -> None:
        writer = asyncio.create_task(self._write())
        try:
            async for message in self._call:
                for part in message.parts:
                    self._receive(part)
        finally:
            self._call.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            await self._call.write(await self._outgoing.get())

    def _receive(self, part: pb.GenerateManyPart) -> None:
        if parts := self._streams.get(part.number):
            parts.put_nowait(part)
            if part.HasField("failure") or part.response.HasField("finish"):
                del self._streams[part.number]
                self._end_if_left()

    def _end_all(self, task: asyncio.Task[None]) -> None:
        for parts in self._streams.values():
            # One for each, as each raises its own.
            parts.put_nowait(_reason(task))
        self._streams.clear()


def _reason(call: asyncio.Task[None]) -> QuireError:
    if call.cancelled():
        return QuireError("CANCELLED: the client was closed")
    error = call.exception()
    if isinstance(error, grpc.RpcError):
        return from_rpc_error(error)
    return Unavailable("the frontend has ended the call") if error is None else QuireError(f"unexpected {error!r}")
