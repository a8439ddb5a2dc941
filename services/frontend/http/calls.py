"""HTTP requests that compute something, as logs and traces know them."""

from types import MappingProxyType
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.services.frontend.call import Calls, Operation
from quire.services.frontend.caller_trace import caller_trace


def _route(path: str, kind: str, id_prefix: str = "") -> Operation:
    attributes = {"http.request.method": "POST", "http.route": path, "url.path": path}
    return Operation(f"POST {path}", kind, id_prefix, attributes, "http.response.status_code")


_OPERATIONS: Final = MappingProxyType(
    {
        each.attributes["http.route"]: each
        for each in (
            _route("/v1/completions", "text_completion", "cmpl-"),
            _route("/v1/chat/completions", "chat", "chatcmpl-"),
            _route("/v1/responses", "chat", "resp_"),
            _route("/v1/embeddings", "embeddings"),
            _route("/score", "embeddings"),
        )
    }
)


class HttpCalls:
    """ASGI middleware behind `RequestIds`: the request path has each request as its running call.

    Args:
        calls: begins them.
    """

    def __init__(self, app: ASGIApp, calls: Calls) -> None:
        self._app = app
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = _OPERATIONS.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        if operation is None:
            await self._app(scope, receive, send)
            return
        trace = caller_trace(Headers(scope=scope).items())
        call = self._calls.begin(operation, scope["state"]["request_id"], trace)
        call.attach()
        # Of a client that has left without an answer.
        status = 499

        async def send_and_look(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, send_and_look)
        except BaseException as error:
            if isinstance(error, Exception):
                # It is answered outside.
                status = 500
            call.fail(error)
            raise
        finally:
            call.end(status)
