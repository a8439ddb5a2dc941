"""POST /v1/completions."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext, suppress

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.engine.api.completion import Completion, Usage, join
from quire.engine.api.errors import RequestError
from quire.engine.open_request import OpenRequest
from quire.engine.text.tokenizer import LONG_TEXT
from quire.services.frontend.http.body import read_body
from quire.services.frontend.http.chunks import DONE, Chunks, CompletionChunks, error_event
from quire.services.frontend.http.completion_body import CompletionBody
from quire.services.frontend.http.disconnect import disconnected, while_connected
from quire.services.frontend.http.errors import refusal
from quire.services.frontend.http.logprobs import ChoiceLogprobs
from quire.services.frontend.http.merge import merged
from quire.services.frontend.http.models import check_model
from quire.services.frontend.inference import Inference

_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Completions:
    """The completions API over the frontend's request path."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def create(self, request: Request) -> ASGIApp:
        """POST /v1/completions."""
        self._inference.admit()
        body = await read_body(request, CompletionBody)
        check_model(body.model, self._inference)
        includes_usage = body.includes_usage
        requests = await self._open(request, body)
        wants_logprobs = body.logprobs is not None
        logprobs = [ChoiceLogprobs(self._inference.tokenizer) for _ in requests] if wants_logprobs else []
        chunks = CompletionChunks(requests[0].request_id, self._inference.model, includes_usage, logprobs)
        return Answer(self._inference, requests, chunks, bool(body.stream), includes_usage)

    async def _open(self, request: Request, body: CompletionBody) -> list[OpenRequest]:
        """Opens a request for each prompt, or none."""
        params, options = body.sampling(), body.options()
        requests: list[OpenRequest] = []
        try:
            for field, prompt in body.prompts():
                takes_long = isinstance(prompt, str) and len(prompt) >= LONG_TEXT
                async with while_connected(request) if takes_long else nullcontext():
                    opened = await self._inference.submit(
                        prompt, params, field=field, options=options, whole=not body.stream
                    )
                    requests.append(opened)
                # Many short prompts take as long as a long one.
                await asyncio.sleep(0)
        except BaseException:
            for opened in requests:
                self._inference.close(opened)
            raise
        return requests


class Answer:
    """Follows open requests and sends what they bring; if the client goes, they end.

    The first piece is awaited before anything is sent, so that whatever fails until then still has a status of
    its own. An error behind that is an event of the stream.
    """

    def __init__(
        self,
        inference: Inference,
        requests: list[OpenRequest],
        chunks: Chunks,
        is_stream: bool,
        includes_usage: bool,
    ) -> None:
        self._inference = inference
        self._requests = requests
        self._chunks = chunks
        self._is_stream = is_stream
        self._includes_usage = includes_usage

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
                response = refusal(error).response()
        await response(scope, receive, send)

    async def _whole(
        self, first: tuple[int, Completion], rest: AsyncGenerator[tuple[int, Completion], None]
    ) -> JSONResponse:
        parts: list[list[Completion]] = [[] for _ in self._requests]
        parts[first[0]].append(first[1])
        async for index, piece in rest:
            parts[index].append(piece)
        return JSONResponse(self._chunks.whole([join(pieces) for pieces in parts]))

    async def _send_events(
        self, first: tuple[int, Completion], rest: AsyncGenerator[tuple[int, Completion], None], send: Send
    ) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        usages: list[Usage] = []
        index, piece = first
        try:
            while True:
                if piece.usage is not None:
                    usages.append(piece.usage)
                event = self._chunks.event(index, piece)
                # Waits while the client is slow; what comes meanwhile is one piece afterwards.
                await send({"type": "http.response.body", "body": event, "more_body": True})
                index, piece = await anext(rest)
        except StopAsyncIteration:
            last = self._chunks.usage_event(usages) + DONE if self._includes_usage else DONE
        except RequestError as error:
            last = error_event(refusal(error)) + DONE
        await send({"type": "http.response.body", "body": last})
