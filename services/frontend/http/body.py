"""Request bodies: JSON objects of bounded size, read into pydantic models."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from quire.engine.api.errors import InvalidRequest
from quire.services.frontend.http.errors import BodyTooLarge


class Body(BaseModel):
    """Base of all bodies. Types are taken as they are: "5" is no number.

    A field that is not known is refused by its name, at every level: better no answer than one to another question.
    Null asks for nothing, here as in fields that are known.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


BodyT = TypeVar("BodyT", bound=Body)


async def read_body(request: Request, kind: type[BodyT]) -> BodyT:
    """Reads and checks a body.

    Raises:
        BodyTooLarge: it has more bytes than the app takes.
        InvalidRequest: it is not JSON, or a field is not as it must be.
    """
    try:
        body = kind.model_validate_json(await _read(request))
    except ValidationError as error:
        raise _invalid(error) from error
    _refuse_unknown(body)
    return body


def _refuse_unknown(body: Body, path: str = "") -> None:
    for name, value in (body.__pydantic_extra__ or {}).items():
        if value is not None:
            raise InvalidRequest(path + name, value, "there is no such field here; leave it out")
    for name in type(body).model_fields:
        if isinstance(part := getattr(body, name), Body):
            _refuse_unknown(part, f"{path}{name}.")


async def _read(request: Request) -> bytes:
    limit: int = request.app.state.max_body_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(limit)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        parts.append(part)
    return b"".join(parts)


def _invalid(error: ValidationError) -> InvalidRequest:
    problem: dict[str, Any] = dict(error.errors(include_url=False)[0])
    if problem["type"] == "json_invalid":
        return InvalidRequest("body", problem["input"], f"must be valid JSON ({problem['ctx']['error']})")
    # Behind the name stands which type of a union it was tried as, or the entry.
    field = str(problem["loc"][0]) if problem["loc"] else "body"
    if problem["type"] == "missing":
        return InvalidRequest(field, None, "is required")
    return InvalidRequest(field, problem["input"], problem["msg"][0].lower() + problem["msg"][1:])
