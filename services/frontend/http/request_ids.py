"""X-Request-Id: a request's name, which its client may choose and gets back."""

import uuid
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.engine.api.errors import InvalidRequest
from quire.services.common.logs import REQUEST, request_fields
from quire.services.frontend.http.errors import refusal

HEADER: Final = "x-request-id"
# Room for what makes it unique among open requests.
MAX_CHARS: Final = 96


class RequestIds:
    """ASGI middleware. A client may give two open requests one id: several attempts may."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER) or uuid.uuid4().hex
        if len(given) > MAX_CHARS or not (given.isascii() and given.isprintable()):
            error = InvalidRequest("X-Request-Id", given, f"must be at most {MAX_CHARS} printable characters of ASCII")
            await refusal(error).response()(scope, receive, send)
            return
        scope.setdefault("state", {})["request_id"] = given
        REQUEST.set(request_fields(given))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = given
            await send(message)

        await self._app(scope, receive, send_with_id)


def open_id(request: Request) -> str:
    """A name for a request to open on behalf of this one: no other has it."""
    return f"{request.state.request_id}-{uuid.uuid4().hex[:8]}"
