"""POST /tokenize, POST /detokenize and GET /tokenizer_info."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.chat_format import ChatFormat
from quire.services.frontend.http.body import Body, read_body
from quire.services.frontend.http.chat_body import ConversationFields
from quire.services.frontend.http.disconnect import while_connected
from quire.services.frontend.inference import Inference

# Numbers that are written before others have their turn.
_NUMBERS_AT_ONCE = 8192


class TokenizeBody(ConversationFields):
    """A text to tokenize, or messages that make one."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    """Those that a prompt gets; by default a text does, and messages, whose template writes them, do not."""
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """Token ids to make text of."""

    model: str | None = None
    tokens: list[int]


class Tokens:
    """The tokenizer by itself.

    Args:
        inference: has the tokenizer.
        chat: makes prompts of messages.
    """

    def __init__(self, inference: Inference, chat: ChatFormat) -> None:
        self._inference = inference
        self._chat = chat

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: a text, or the prompt that messages make. It has at most 1 MiB."""
        body = await read_body(request, TokenizeBody)
        self._inference.adapter(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise InvalidRequest("prompt", body.prompt, "must be given unless there are messages")
        async with while_connected(request):
            if body.prompt is None:
                field, text = "messages", await self._prompt(body)
            else:
                field, text = "prompt", body.prompt
            adds = body.prompt is not None if body.add_special_tokens is None else body.add_special_tokens
            tokens = await self._inference.encode(text, field, add_special_tokens=adds)
        fields = {
            "count": str(len(tokens)),
            "max_model_len": json.dumps(self._inference.state.max_model_len or None),
            "tokens": f"[{await _joined(tokens)}]",
            "token_strs": f"[{await self._spelled(tokens)}]" if body.return_token_strs else "null",
        }
        content = ",".join(f'"{name}":{value}' for name, value in fields.items())
        return Response(f"{{{content}}}", media_type="application/json")

    async def detokenize(self, request: Request) -> JSONResponse:
        """POST /detokenize: with special tokens, so that /tokenize gives the same ids again; at most 262,144."""
        body = await read_body(request, DetokenizeBody)
        self._inference.adapter(body.model)
        async with while_connected(request):
            text = await self._inference.decode(body.tokens, "tokens", skip_special_tokens=False)
        return JSONResponse({"prompt": text})

    async def info(self, request: Request) -> JSONResponse:
        """GET /tokenizer_info: `tokenizer_config.json`, with the chat template that is used."""
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **self._chat.tokenizer_config}
        return JSONResponse({**config, "chat_template": self._chat.template})

    async def _prompt(self, body: TokenizeBody) -> str:
        return (await self._chat.prompt(await body.conversation(), body.chat_template)).text

    async def _spelled(self, tokens: Sequence[int]) -> str:
        """The vocabulary's spellings, as JSON."""
        name, parts = self._inference.tokenizer.backend.id_to_token, []
        for at in range(0, len(tokens), _NUMBERS_AT_ONCE):
            parts.append(json.dumps([name(token) for token in tokens[at : at + _NUMBERS_AT_ONCE]])[1:-1])
            await asyncio.sleep(0)
        return ",".join(parts)


async def _joined(numbers: Sequence[int]) -> str:
    parts = []
    for at in range(0, len(numbers), _NUMBERS_AT_ONCE):
        parts.append(",".join(map(str, numbers[at : at + _NUMBERS_AT_ONCE])))
        await asyncio.sleep(0)
    return ",".join(parts)
