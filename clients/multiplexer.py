"""Streams of an asyncio client that share one call of its frontend."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import TypeAlias

import grpc
from google.protobuf.empty_pb2 import Empty

from quire.clients.errors import from_failure, from_rpc_error
from quire.engine.errors import QuireError, Unavailable
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

_Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.GenerateManyRequest, pb.GenerateManyResponse]"
_Parts: TypeAlias = "asyncio.Queue[pb.GenerateManyPart | QuireError]"
_Requests: TypeAlias = "asyncio.Queue[pb.GenerateManyRequest]"


class Multiplexer:
    """Makes a GenerateMany call when the first stream is asked for, and another one when that has ended.

    Args:
        stub: of the client's channel.
    """

    def __init__(self, stub: "inference_pb2_grpc.InferenceServiceAsyncStub") -> None:
        self._stub = stub
        self._numbers = itertools.count(1)
        self._streams: dict[int, _Parts] = {}
        self._outgoing: _Requests = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None

    async def stream(
        self, request: pb.GenerateRequest, timeout: float | None
    ) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        """The request's responses; closing the iteration cancels it on the server.

        Args:
            timeout: seconds from beginning to end.

        Raises:
            QuireError: the request has failed, or the call.
        """
        number = next(self._numbers)
        parts: _Parts = asyncio.Queue()
        self._connect()
        self._streams[number] = parts
        self._outgoing.put_nowait(pb.GenerateManyRequest(number=number, generate=request))
        timer = _expire(parts, timeout)
        try:
            is_over = False
            while not is_over:
                part = await parts.get()
                if isinstance(part, QuireError):
                    raise part
                is_over = part.HasField("failure") or part.response.HasField("finish")
                if is_over:
                    self._streams.pop(number, None)
                if part.HasField("failure"):
                    raise from_failure(part.failure)
                yield part.response
        finally:
            if timer is not None:
                timer.cancel()
            if self._streams.pop(number, None):
                self._outgoing.put_nowait(pb.GenerateManyRequest(number=number, cancel=Empty()))

    async def close(self) -> None:
        """Ends the call."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def _connect(self) -> None:
        if self._reader is None or self._reader.done():
            self._outgoing = asyncio.Queue()
            self._reader = asyncio.create_task(self._read(self._stub.GenerateMany(_each(self._outgoing))))

    async def _read(self, call: _Call) -> None:
        # One for each stream, as each raises its own.
        reason: Callable[[], QuireError] = partial(Unavailable, "the frontend has ended the call")
        try:
            async for message in call:
                for part in message.parts:
                    if parts := self._streams.get(part.number):
                        parts.put_nowait(part)
        except grpc.RpcError as error:
            reason = partial(from_rpc_error, error)
        except asyncio.CancelledError:
            reason = partial(QuireError, "CANCELLED: the client was closed")
        finally:
            call.cancel()
            streams, self._streams = self._streams, {}
            for parts in streams.values():
                parts.put_nowait(reason())


def _expire(parts: _Parts, timeout: float | None) -> asyncio.TimerHandle | None:
    if timeout is None:
        return None
    error = QuireError(f"DEADLINE_EXCEEDED: not done within {timeout:g} s")
    return asyncio.get_running_loop().call_later(timeout, parts.put_nowait, error)


async def _each(requests: _Requests) -> AsyncIterator[pb.GenerateManyRequest]:
    while True:
        yield await requests.get()
