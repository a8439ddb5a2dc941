"""The requests of one GenerateMany call: followed side by side, answered together."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial

from google.rpc import code_pb2

from quire.clients.convert import failure_to_proto
from quire.engine.errors import InvalidRequest, RequestError
from quire.v1 import inference_pb2 as pb

logger = logging.getLogger(__name__)

# Of a client that sends and does not read, no more requests are taken then.
MAX_PARTS = 65_536


class Multiplex:
    """Gathers what the requests bring until the call takes it; bounded by what they may still generate.

    Args:
        follow: answers one request; closing the iteration cancels it.
    """

    def __init__(self, follow: Callable[[pb.GenerateRequest], AsyncGenerator[pb.GenerateStreamResponse, None]]) -> None:
        self._follow = follow
        self._running: dict[int, asyncio.Task[None]] = {}
        self._parts: list[pb.GenerateManyPart] = []
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def run(
        self, requests: AsyncIterator[pb.GenerateManyRequest]
    ) -> AsyncGenerator[pb.GenerateManyResponse, None]:
        """Answers until the requests and their stream have ended; however the iteration ends, nothing goes on.

        Raises:
            InvalidRequest: of a message that names no request, so that no answer could.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if reader.done():
                    reader.result()
                # Whether more can come is to be known before a message goes out, as meanwhile it may.
                is_over = reader.done() and not self._running
                if self._parts:
                    parts, self._parts = self._parts, []
                    self._room.set()
                    yield pb.GenerateManyResponse(parts=parts)
                if is_over:
                    return
        finally:
            tasks = [reader, *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.GenerateManyRequest]) -> None:
        try:
            async for request in requests:
                match request.WhichOneof("action"):
                    case "generate":
                        self._begin(request.number, request.generate)
                    case "cancel":
                        if task := self._running.get(request.number):
                            task.cancel()
                    case _:
                        raise InvalidRequest("action", None, "must be generate or cancel")
                while len(self._parts) >= MAX_PARTS:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._news.set()

    def _begin(self, number: int, request: pb.GenerateRequest) -> None:
        if number in self._running:
            raise InvalidRequest("number", number, "must not be that of a running request")
        self._running[number] = task = asyncio.create_task(self._answer(number, request))
        task.add_done_callback(partial(self._end, number))

    async def _answer(self, number: int, request: pb.GenerateRequest) -> None:
        async with aclosing(self._follow(request)) as responses:
            async for response in responses:
                self._add(pb.GenerateManyPart(number=number, response=response))

    def _end(self, number: int, task: asyncio.Task[None]) -> None:
        """Its failure is the last part where no response was."""
        del self._running[number]
        self._news.set()
        failure = None
        if task.cancelled():
            failure = pb.GenerateFailure(code=code_pb2.CANCELLED, message="cancelled by the client")
        elif isinstance(error := task.exception(), RequestError):
            failure = failure_to_proto(error)
        elif error is not None:
            logger.error("request %d of a call of many", number, exc_info=error)
            failure = pb.GenerateFailure(code=code_pb2.UNKNOWN, message=f"unexpected {error!r}")
        if failure is not None:
            self._add(pb.GenerateManyPart(number=number, failure=failure))

    def _add(self, part: pb.GenerateManyPart) -> None:
        self._parts.append(part)
        self._news.set()
