"""The answer to one HTTP request, in whatever form its API has: whole, or as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from quire.engine.api.completion import Completion, join
from quire.engine.api.errors import RequestError
from quire.engine.open_request import OpenRequest
from quire.services.frontend.http.disconnect import disconnected
from quire.services.frontend.http.errors import FieldNames, Refusal, refusal
from quire.services.frontend.inference import Inference
from quire.services.frontend.merge import merged

_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class AnswerRenderer(Protocol):
    """One API's messages for one HTTP request: tokens and text in, bytes of a stream or the body out."""

    def event(self, index: int, piece: Completion) -> bytes:
        """Events of a stream for a piece of answer `index`; empty: there is nothing to say yet."""

    def end(self) -> bytes:
        """The last events of a stream, once every answer has ended."""

    def failure(self, error: Refusal) -> bytes:
        """The last events of a stream that an error ends."""

    def whole(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""


class Answer:
    """Follows open requests and sends what they bring; if the client goes, they end.

    The first piece is awaited before anything is sent, so that whatever fails until then still has a status of
    its own. An error behind that is an event of the stream.

    Args:
        inference: computes the answers.
        requests: as opened.
        renderer: of the API.
        is_stream: they are sent as events.
        names: that the API has for fields, for refusals.
    """

    def __init__(
        self,
        inference: Inference,
        requests: Sequence[OpenRequest],
        renderer: AnswerRenderer,
        is_stream: bool,
        names: FieldNames = (),
    ) -> None:
        self._inference = inference
        self._requests = requests
        self._renderer = renderer
        self._is_stream = is_stream
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(self._answer(scope, receive, send))
        leaving = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, leaving):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await leaving
            try:
                with suppress(asyncio.CancelledError):
                    await answering
            finally:
                for opened in self._requests:
                    self._inference.close(opened)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces = merged([self._inference.follow(opened) for opened in self._requests])
        async with aclosing(pieces):
            try:
                first = await anext(pieces)
                if self._is_stream:
                    await self._send_events(first, pieces, send)
                    return
                response = await self._whole(first, pieces)
            except RequestError as error:
                response = refusal(error, self._names).response()
        await response(scope, receive, send)

    async def _whole(
        self, first: tuple[int, Completion], rest: AsyncGenerator[tuple[int, Completion], None]
    ) -> JSONResponse:
        parts: list[list[Completion]] = [[] for _ in self._requests]
        parts[first[0]].append(first[1])
        async for index, piece in rest:
            parts[index].append(piece)
        return JSONResponse(self._renderer.whole([join(pieces) for pieces in parts]))

    async def _send_events(
        self, first: tuple[int, Completion], rest: AsyncGenerator[tuple[int, Completion], None], send: Send
    ) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        index, piece = first
        try:
            while True:
                if event := self._renderer.event(index, piece):
                    # Waits while the client is slow; what comes meanwhile is one piece afterwards.
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                index, piece = await anext(rest)
        except StopAsyncIteration:
            last = self._renderer.end()
        except RequestError as error:
            last = self._renderer.failure(refusal(error, self._names))
        await send({"type": "http.response.body", "body": last})
