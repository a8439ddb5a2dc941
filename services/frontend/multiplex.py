"""The requests of one GenerateMany call: opened as they come, answered together."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

from google.rpc import code_pb2

from quire.engine.api.errors import InvalidRequest, RequestError
from quire.engine.open_request import OpenRequest
from quire.engine.text.pieces import Pieces
from quire.protos.convert import failure_to_proto, write_completion
from quire.services.frontend.call import Call, rpc_status
from quire.services.frontend.inference import Inference
from quire.v1 import inference_pb2 as pb

logger = logging.getLogger(__name__)

# Requests that are being tokenized, and failures that the client has not read: with more, no further request is read.
MAX_PENDING = 64
# Of a message; what has no room comes in the next. Most clients take 4 MiB.
MESSAGE_BYTES = 1024 * 1024


class Multiplex:
    """Takes what has come for the requests when the call can send it, so that a client that reads slowly gets fewer
    and longer parts.

    Args:
        inference: does the work.
        begin: the call that a request is.
        submit: checks and opens it.
    """

    def __init__(
        self,
        inference: Inference,
        begin: Callable[[pb.GenerateRequest], Call],
        submit: Callable[[pb.GenerateRequest, Call], Coroutine[Any, Any, OpenRequest]],
    ) -> None:
        self._inference = inference
        self._begin_call = begin
        self._submit = submit
        self._opening: dict[int, asyncio.Task[OpenRequest]] = {}
        self._open: dict[int, tuple[OpenRequest, Pieces, Call]] = {}
        # Numbers of open requests with something to take, in this order.
        self._ready: dict[int, None] = {}
        self._failures: list[pb.GenerateManyPart] = []
        self._updated, self._room = asyncio.Event(), asyncio.Event()

    async def run(
        self, requests: AsyncIterator[pb.GenerateManyRequest]
    ) -> AsyncGenerator[pb.GenerateManyResponse, None]:
        """Answers until every request has ended and no more come; however the iteration ends, nothing goes on.

        Raises:
            InvalidRequest: of a message that names no request, so that no answer could.
        """
        reader = asyncio.create_task(self._read(requests))
        lasts = (reader, asyncio.create_task(self._inference.draining()))
        for last in lasts:
            last.add_done_callback(lambda _: self._updated.set())
        try:
            while self._opening or self._open or not any(last.done() for last in lasts):
                await self._updated.wait()
                self._updated.clear()
                if reader.done():
                    reader.result()
                while (response := self._take()).parts:
                    yield response
        finally:
            tasks = (*lasts, *self._opening.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for number in list(self._open):
                self._forget(number).end("CANCELLED")

    async def _read(self, requests: AsyncIterator[pb.GenerateManyRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("action"):
                case "generate":
                    self._begin(request.number, request.generate)
                case "cancel":
                    self._cancel(request.number)
                case _:
                    raise InvalidRequest("action", None, "must be generate or cancel")
            while len(self._opening) + len(self._failures) >= MAX_PENDING:
                self._room.clear()
                await self._room.wait()

    def _begin(self, number: int, request: pb.GenerateRequest) -> None:
        if number in self._opening or number in self._open:
            raise InvalidRequest("number", number, "must not be that of a running request")
        call = self._begin_call(request)
        self._opening[number] = task = asyncio.create_task(self._enter(request, call))
        task.add_done_callback(partial(self._begun, number, call))

    async def _enter(self, request: pb.GenerateRequest, call: Call) -> OpenRequest:
        call.attach()
        return await self._submit(request, call)

    def _begun(self, number: int, call: Call, task: asyncio.Task[OpenRequest]) -> None:
        del self._opening[number]
        if task.cancelled():
            call.end("CANCELLED")
            self._fail(number, _CANCELLED)
        elif error := task.exception():
            self._fail(number, self._failure(number, error, call))
            call.end(rpc_status(error))
        else:
            opened = task.result()
            self._open[number] = opened, Pieces(opened, self._inference.tokenizer), call
            opened.notify(partial(self._notify, number))
        self._room.set()

    def _cancel(self, number: int) -> None:
        if task := self._opening.get(number):
            task.cancel()
        elif number in self._open:
            self._forget(number).end("CANCELLED")
            self._fail(number, _CANCELLED)

    def _notify(self, number: int) -> None:
        self._ready[number] = None
        self._updated.set()

    def _fail(self, number: int, failure: pb.GenerateFailure) -> None:
        self._failures.append(pb.GenerateManyPart(number=number, failure=failure))
        self._updated.set()

    def _forget(self, number: int) -> Call:
        """The call, which is to be ended."""
        opened, _, call = self._open.pop(number)
        self._ready.pop(number, None)
        self._inference.close(opened)
        return call

    def _take(self) -> pb.GenerateManyResponse:
        """The next message; without parts if there is nothing to say."""
        response = pb.GenerateManyResponse(parts=self._failures)
        self._failures = []
        size = 0
        while self._ready and size < MESSAGE_BYTES:
            number = next(iter(self._ready))
            del self._ready[number]
            size += self._add_part(response, number)
        self._room.set()
        return response

    def _add_part(self, response: pb.GenerateManyResponse, number: int) -> int:
        """Returns the bytes of the part."""
        _, pieces, call = self._open[number]
        part = response.parts.add(number=number)
        try:
            piece = pieces.take()
            if call.span is not None:
                call.span.take(piece)
            # Written where it stays: a copy would cost as much again.
            write_completion(piece, part.response)
        except Exception as error:
            # The other requests go on after any error of one.
            part.failure.CopyFrom(self._failure(number, error, call))
            self._forget(number).end(rpc_status(error))
        else:
            if pieces.is_over:
                self._forget(number).end("OK")
        return part.ByteSize()

    def _failure(self, number: int, error: BaseException, call: Call) -> pb.GenerateFailure:
        call.fail(error)
        if isinstance(error, RequestError):
            self._inference.tell_refusal(error)
            return failure_to_proto(error)
        logger.error("request %d of a call of many", number, exc_info=error, extra=call.fields)
        return pb.GenerateFailure(code=code_pb2.UNKNOWN, message=f"unexpected {error!r}")


_CANCELLED = pb.GenerateFailure(code=code_pb2.CANCELLED, message="cancelled by the client")
