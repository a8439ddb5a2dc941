"""POST /v1/completions."""

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from quire.engine.beam_search_validation import validate_beam_search
from quire.services.frontend.call import current_call
from quire.services.frontend.http.answer import Answer
from quire.services.frontend.http.body import read_body
from quire.services.frontend.http.choices import open_choices, prepare_all
from quire.services.frontend.http.chunks import CompletionChunks
from quire.services.frontend.http.completion_body import CompletionBody
from quire.services.frontend.http.searches import search_all
from quire.services.frontend.inference import Inference, PreparedRequest


class Completions:
    """The completions API over the frontend's request path."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def create(self, request: Request) -> ASGIApp:
        """POST /v1/completions."""
        self._inference.admit()
        body = await read_body(request, CompletionBody)
        inference, wishes, params = self._inference, body.wishes(), body.sampling()
        adapter = inference.adapter(body.model)
        search = body.beam_search(params, wishes.best_of, "n" if body.best_of is None else "best_of")
        if search is not None:
            validate_beam_search(search)
            params = search.sampling
        options = body.options(body.add_special_tokens is not False, current_call().trace, adapter)
        prompts = body.prompts()
        prepared = await prepare_all(inference, request, prompts, params, options)
        pairs = zip(prompts, prepared, strict=True) if wishes.echo else ()
        echoes = [await self._echo(prompt, each) for (_, prompt), each in pairs]
        if search is not None:
            found = await search_all(inference, request, prepared, search, wishes.n)
            answers = [answer for answers in found for answer in answers]
            wishes = replace(wishes, best_of=wishes.n)
            chunks = CompletionChunks(inference, answers, wishes, echoes, [len(each) for each in found], adapter)
            return JSONResponse(chunks.whole([each.completion for each in answers]))
        requests = open_choices(inference, request, prepared, wishes.best_of, whole=not body.stream)
        chunks = CompletionChunks(inference, requests, wishes, echoes, adapter=adapter)
        return Answer(inference, requests, chunks, bool(body.stream), body.structure_names)

    async def _echo(self, prompt: str | list[int], prepared: PreparedRequest) -> str:
        """A prompt's text: as it was given, or else that of the token ids that are kept of it."""
        kept = prepared.options.prompt.truncate_prompt_tokens
        if isinstance(prompt, str) and (kept is None or len(prepared.prompt) < kept):
            return prompt
        return await self._inference.decode(prepared.prompt, "prompt", skip_special_tokens=False)
