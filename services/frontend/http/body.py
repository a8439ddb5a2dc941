"""Request bodies: JSON objects of bounded size, read into pydantic models."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from quire.engine.api.errors import InvalidRequest
from quire.services.common.intake import SMALL_BYTES, Intake
from quire.services.frontend.http.errors import BodyTooLarge
from quire.services.frontend.http.json_size import count_json

# Of one body. Their parser takes less than 0.1 microseconds for a token id, and a few for a list or a field.
MAX_VALUES: Final = 512 * 1024
MAX_NESTED: Final = 1024


class Body(BaseModel):
    """Base of all bodies. Types are taken as they are: "5" is no number.

    A field that is not known is refused by its name, at every level: better no answer than one to another question.
    Null asks for nothing, here as in fields that are known.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    max_nested: ClassVar[int] = MAX_NESTED
    """Lists, objects and fields of a large body."""


BodyT = TypeVar("BodyT", bound=Body)


async def read_body(request: Request, kind: type[BodyT]) -> BodyT:
    """Reads and checks a body.

    Raises:
        BodyTooLarge: it has more bytes than a request may bring.
        InvalidRequest: it is not JSON, or a field is not as it must be.
        Overloaded: too many large bodies are being read.
    """
    intake: Intake = request.app.state.intake
    try:
        with intake.hold() as add:
            data = await _read(request, intake.max_bytes, add)
            if len(data) <= SMALL_BYTES:
                body = kind.model_validate_json(data)
            else:
                await _check_size(data, kind.max_nested)
                body = await intake.run(partial(kind.model_validate_json, data))
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


async def _check_size(data: bytes, max_nested: int) -> None:
    for size in count_json(data):
        if size.values > MAX_VALUES or size.nested > max_nested:
            limit = f"must be at most {MAX_VALUES} values, and {max_nested} lists, objects and fields"
            raise InvalidRequest("body", f"{len(data)} bytes", limit)
        await asyncio.sleep(0)


async def _read(request: Request, limit: int, add: Callable[[int], None]) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(limit)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        add(len(part))
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
        return InvalidRequest(".".join(map(str, problem["loc"])), None, "is required")
    return InvalidRequest(field, problem["input"], problem["msg"][0].lower() + problem["msg"][1:])
