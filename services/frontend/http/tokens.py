"""POST /tokenize and POST /detokenize."""

from typing import Literal

from starlette.requests import Request
from starlette.responses import JSONResponse

from quire.services.frontend.http.body import Body, read_body
from quire.services.frontend.http.models import check_model
from quire.services.frontend.inference import Inference


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

    async def tokenize(self, request: Request) -> JSONResponse:
        """POST /tokenize: with the special tokens that a prompt gets."""
        body = await read_body(request, TokenizeBody)
        check_model(body.model, self._inference)
        tokens = (await self._inference.encode(body.prompt)).tolist()
        limit = self._inference.state.max_model_len or None
        return JSONResponse({"count": len(tokens), "max_model_len": limit, "tokens": tokens})

    async def detokenize(self, request: Request) -> JSONResponse:
        """POST /detokenize: without special tokens."""
        body = await read_body(request, DetokenizeBody)
        check_model(body.model, self._inference)
        return JSONResponse({"prompt": self._inference.decode(body.tokens, "tokens")})
