"""GET /ui/events: what goes on, as server-sent events, for as long as the browser stays."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from quire.services.frontend.http.disconnect import disconnected

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Proxies that gather what they pass on must not here.
    (b"x-accel-buffering", b"no"),
]


class LiveEvents:
    """An ASGI response.

    Args:
        messages: of one browser; an error of the first one is the response.
        draining: returns when this frontend is about to end.
    """

    def __init__(self, messages: AsyncGenerator[bytes, None], draining: Callable[[], Awaitable[None]]) -> None:
        self._messages = messages
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving, draining = (asyncio.ensure_future(each) for each in (disconnected(receive), self._draining()))
        tasks = (sending, leaving, draining)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not leaving.done() or leaving.cancelled():
            await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Send) -> None:
        async with aclosing(self._messages):
            first = await anext(self._messages)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for message in self._messages:
                # Waits while the browser is slow; it is late for the next message then.
                await send({"type": "http.response.body", "body": message, "more_body": True})
