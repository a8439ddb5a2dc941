"""POST /tokenize and POST /detokenize."""

import asyncio
import json
from collections.abc import Sequence
from typing import Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from quire.services.frontend.http.body import Body, read_body
from quire.services.frontend.http.disconnect import while_connected
from quire.services.frontend.http.models import check_model
from quire.services.frontend.inference import Inference

# Numbers that are written before others have their turn.
_NUMBERS_AT_ONCE = 8192


class TokenizeBody(Body):
    """A text to tokenize."""

    model: str | None = None
    prompt: str
    add_special_tokens: Literal[True] | None = None


class DetokenizeBody(Body):
    """Token ids to make text of."""

    model: str | None = None
    tokens: list[int]


class Tokens:
    """The tokenizer by itself."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: with the special tokens that a prompt gets. A text has at most 1 MiB."""
        body = await read_body(request, TokenizeBody)
        check_model(body.model, self._inference)
        async with while_connected(request):
            tokens = await self._inference.encode(body.prompt, "prompt")
        limit = json.dumps(self._inference.state.max_model_len or None)
        content = f'{{"count":{len(tokens)},"max_model_len":{limit},"tokens":[{await _joined(tokens)}]}}'
        return Response(content, media_type="application/json")

    async def detokenize(self, request: Request) -> JSONResponse:
        """POST /detokenize: without special tokens; at most 262,144 of them."""
        body = await read_body(request, DetokenizeBody)
        check_model(body.model, self._inference)
        async with while_connected(request):
            text = await self._inference.decode(body.tokens, "tokens")
        return JSONResponse({"prompt": text})


async def _joined(numbers: Sequence[int]) -> str:
    parts = []
    for at in range(0, len(numbers), _NUMBERS_AT_ONCE):
        parts.append(",".join(map(str, numbers[at : at + _NUMBERS_AT_ONCE])))
        await asyncio.sleep(0)
    return ",".join(parts)
