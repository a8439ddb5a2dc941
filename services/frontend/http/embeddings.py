"""POST /v1/embeddings and POST /score: vectors of prompts, and how near the vectors of two texts are."""

import asyncio
import base64
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse

from quire.engine.api.embedding import Embedding
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.options import CacheParams, PromptParams, RequestOptions
from quire.engine.api.pooling import Pooling
from quire.engine.text.embedding import embedding_params
from quire.services.frontend.http.body import Body, read_body
from quire.services.frontend.http.choices import open_choices, prepare_all
from quire.services.frontend.http.disconnect import while_connected
from quire.services.frontend.http.prompts import named_prompts
from quire.services.frontend.inference import Inference


class EmbeddingFields(Body):
    """Fields that both routes have."""

    model: str | None = None
    pooling: Literal["mean", "last", "cls"] | None = None
    truncate_prompt_tokens: int | None = None
    add_special_tokens: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
    user: str | None = None
    """For the caller's own records; not looked at."""

    def options(self, adapter: str) -> RequestOptions:
        """Wishes beyond sampling."""
        prompt = PromptParams(self.add_special_tokens is not False, self.truncate_prompt_tokens)
        return RequestOptions(self.priority or 0, CacheParams(salt=self.cache_salt or ""), prompt, adapter=adapter)


class EmbeddingsBody(EmbeddingFields):
    """OpenAI's fields, and those that other servers have added to them."""

    input: Any
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    normalize: bool | None = None


class ScoreBody(EmbeddingFields):
    """vLLM's fields: one text against one or several, or several against as many."""

    text_1: str | list[str]
    text_2: str | list[str]

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs to compare.

        Raises:
            InvalidRequest: the lists are not of one length, or empty.
        """
        left, right = ([each] if isinstance(each, str) else each for each in (self.text_1, self.text_2))
        if len(left) == 1:
            left = left * len(right)
        if len(left) != len(right) or not left:
            raise InvalidRequest("text_2", len(right), f"must be as many texts as text_1, {len(left)}, at least one")
        return list(zip(left, right, strict=True))


class Embeddings:
    """Embeddings over the frontend's request path."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def create(self, request: Request) -> JSONResponse:
        """POST /v1/embeddings."""
        self._inference.admit()
        body = await read_body(request, EmbeddingsBody)
        prompts = named_prompts("input", body.input)
        found = await self._embed(request, prompts, body, body.normalize is not False)
        if body.dimensions not in (None, size := len(found[0].values)):
            raise InvalidRequest("dimensions", body.dimensions, f"must be {size}, the model's hidden size")
        write = _base64 if body.encoding_format == "base64" else list
        data = [
            {"object": "embedding", "index": index, "embedding": write(each.values)} for index, each in enumerate(found)
        ]
        model = body.model or self._inference.model
        return JSONResponse({"object": "list", "data": data, "model": model, "usage": _usage(found)})

    async def score(self, request: Request) -> JSONResponse:
        """POST /score: the cosine of the angle between the vectors of each pair, -1 to 1."""
        self._inference.admit()
        body = await read_body(request, ScoreBody)
        pairs = body.pairs()
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        names = {text: "text_1" if any(text == left for left, _ in pairs) else "text_2" for text in texts}
        found = await self._embed(request, [(names[text], text) for text in texts], body, True)
        vectors = {text: np.array(each.values) for text, each in zip(texts, found, strict=True)}
        scores = [float(vectors[left] @ vectors[right]) for left, right in pairs]
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
        frame = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
        return JSONResponse(
            {**frame, "model": body.model or self._inference.model, "data": data, "usage": _usage(found)}
        )

    async def _embed(
        self, request: Request, prompts: Sequence[tuple[str, str | list[int]]], body: EmbeddingFields, normalize: bool
    ) -> list[Embedding]:
        """Embeds every prompt; if the client goes, they end."""
        inference = self._inference
        params = embedding_params(Pooling[(body.pooling or "last").upper()])
        prepared = await prepare_all(inference, request, prompts, params, body.options(inference.adapter(body.model)))
        requests = open_choices(inference, request, prepared, whole=True)
        try:
            async with while_connected(request), asyncio.TaskGroup() as group:
                tasks = [group.create_task(inference.embedding(each, normalize)) for each in requests]
        except* Exception as errors:
            # One is enough for the client, and the others end with it.
            raise errors.exceptions[0] from None
        finally:
            for each in requests:
                inference.close(each)
        return [task.result() for task in tasks]


def _base64(values: Sequence[float]) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def _usage(found: Sequence[Embedding]) -> dict[str, int]:
    num_prompt = sum(each.usage.prompt_tokens for each in found)
    return {"prompt_tokens": num_prompt, "total_tokens": num_prompt}
