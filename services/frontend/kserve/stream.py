"""The requests of one ModelStreamInfer call: each is answered as its responses come."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

from quire.engine.api.errors import RequestError
from quire.kserve import open_inference_pb2 as pb
from quire.services.common.logs import request_fields
from quire.services.frontend.inference import Inference

logger = logging.getLogger(__name__)

# Requests of one call that run at once: with more, no further one is read.
MAX_RUNNING: Final = 1024
# Responses that wait to be sent. Requests that have more keep it as tokens.
_MAX_WAITING: Final = 64


class InferStream:
    """One call.

    Args:
        inference: says when no more requests are taken.
        answer: the responses to one request.
    """

    def __init__(
        self,
        inference: Inference,
        answer: Callable[[pb.ModelInferRequest], AsyncGenerator[pb.ModelInferResponse, None]],
    ) -> None:
        self._inference = inference
        self._answer = answer
        self._running: set[asyncio.Task[None]] = set()
        self._responses: asyncio.Queue[pb.ModelStreamInferResponse] = asyncio.Queue(_MAX_WAITING)
        self._updated, self._room = asyncio.Event(), asyncio.Event()

    async def run(
        self, requests: AsyncIterator[pb.ModelInferRequest]
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """Answers until every request has ended and no more come; however the iteration ends, nothing goes on."""
        reader = asyncio.create_task(self._read(requests))
        lasts = (reader, asyncio.create_task(self._inference.draining()))
        for last in lasts:
            last.add_done_callback(lambda _: self._updated.set())
        try:
            while self._running or not any(last.done() for last in lasts):
                await self._updated.wait()
                self._updated.clear()
                if reader.done():
                    reader.result()
                while not self._responses.empty():
                    yield self._responses.get_nowait()
        finally:
            tasks = (*lasts, *self._running)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        async for request in requests:
            task = asyncio.create_task(self._serve(request))
            self._running.add(task)
            task.add_done_callback(self._end)
            while len(self._running) >= MAX_RUNNING:
                self._room.clear()
                await self._room.wait()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.set()
        self._updated.set()

    async def _serve(self, request: pb.ModelInferRequest) -> None:
        try:
            async with aclosing(self._answer(request)) as responses:
                async for response in responses:
                    await self._send(pb.ModelStreamInferResponse(infer_response=response))
        except Exception as error:
            # The other requests go on after any error of one.
            if isinstance(error, RequestError):
                self._inference.tell_refusal(error)
            else:
                logger.error("a request of a stream", exc_info=error, extra=request_fields(request.id))
            failed = pb.ModelInferResponse(id=request.id)
            message = str(error) if isinstance(error, RequestError) else f"unexpected {error!r}"
            await self._send(pb.ModelStreamInferResponse(error_message=message, infer_response=failed))

    async def _send(self, response: pb.ModelStreamInferResponse) -> None:
        await self._responses.put(response)
        self._updated.set()
