"""Refusals as HTTP: {"error": {message, type, param, code}}, as the OpenAI API has them.

InvalidRequest    400  invalid_request_error, `param` names the field
UnknownModel      404  model_not_found
BodyTooLarge      413
Unauthenticated   401  invalid_api_key, with WWW-Authenticate
Forbidden         403  permission_denied
LimitReached      429  rate_limit_exceeded, with Retry-After
Overloaded        429  with Retry-After
Unavailable       503  with Retry-After
other             500
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from quire.engine.api.errors import (
    Forbidden,
    InvalidRequest,
    LimitReached,
    Overloaded,
    RequestError,
    Unauthenticated,
    Unavailable,
    UnknownModel,
)
from quire.services.common.metrics.outcome import refusal_of
from quire.services.frontend.call import current_call

# Beginnings of the request path's names of fields, and how an API calls the same; the first that fits counts.
FieldNames = Sequence[tuple[str, str]]
INVALID = "invalid_request_error"
# Key of a request's scope: the gRPC code and the kind of the error that it is answered with.
REASON: Final = "quire.refusal"
# The protocol groups what OpenAI's API has side by side.
# Beginnings of the protocol's names of fields, and how bodies call the same.
_RENAMED = (
    ("sampling.thinking.max_tokens", "thinking_token_budget"),
    ("sampling.thinking", "thinking_token_budget"),
    ("sampling.", ""),
    ("cache.salt", "cache_salt"),
)


class BodyTooLarge(RequestError):
    """The body has more bytes than are read."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"body: must be at most {limit} bytes")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One error as the API states it.

    Attributes:
        reason: as metrics count it; None: they do not.
    """

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None
    reason: tuple[str, str] | None = None

    @property
    def body(self) -> dict[str, Any]:
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}

    def response(self) -> JSONResponse:
        # The header's unit is whole seconds.
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return _RefusalResponse(self, headers)


class _RefusalResponse(JSONResponse):
    """Leaves the reason in the request's scope."""

    def __init__(self, refusal: Refusal, headers: dict[str, str]) -> None:
        super().__init__(refusal.body, refusal.status, headers)
        self._reason = refusal.reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[REASON] = self._reason
        await super().__call__(scope, receive, send)


def refusal(error: RequestError, names: FieldNames = ()) -> Refusal:
    """Status and body for an error of the request path.

    Args:
        names: of one API, which come before those of all.
    """
    return replace(_refusal(error, names), reason=refusal_of(error))


def _refusal(error: RequestError, names: FieldNames) -> Refusal:
    message = _field_of_body(str(error), names)
    match error:
        case InvalidRequest():
            return Refusal(400, message, INVALID, param=_field_of_body(error.field, names) or None)
        case UnknownModel():
            return Refusal(404, message, INVALID, param="model", code="model_not_found")
        case BodyTooLarge():
            return Refusal(413, message, INVALID, code="body_too_large")
        case Unauthenticated():
            return Refusal(401, message, INVALID, code="invalid_api_key")
        case Forbidden():
            return Refusal(403, message, "permission_error", code="permission_denied")
        case LimitReached():
            return Refusal(429, message, "rate_limit_error", code="rate_limit_exceeded", retry_after=error.retry_after)
        case Overloaded():
            return Refusal(429, message, "overloaded_error", code="overloaded", retry_after=error.retry_after)
        case Unavailable():
            return Refusal(503, message, "unavailable_error", code="unavailable", retry_after=1.0)
    return Refusal(500, message, "server_error", code="internal_error")


def _field_of_body(text: str, names: FieldNames) -> str:
    """What begins with the protocol's name of a field begins with the body's."""
    for ours, theirs in (*names, *_RENAMED):
        if text.startswith(ours):
            return theirs + text.removeprefix(ours)
    return text


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for the errors of the request path."""
    assert isinstance(error, RequestError)
    current_call().fail(error)
    return refusal(error).response()


async def refuse_route(request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for its own: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    response = Refusal(error.status_code, message, INVALID).response()
    response.headers.update(error.headers or {})
    return response


async def refuse_fault(request: Request, error: Exception) -> JSONResponse:
    """Starlette's handler for what should not happen; the server logs it."""
    return Refusal(500, "internal error", "server_error", code="internal_error").response()
