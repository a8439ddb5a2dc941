"""POST /v1/completions."""

from starlette.requests import Request
from starlette.types import ASGIApp

from quire.services.frontend.caller_trace import caller_trace
from quire.services.frontend.http.answer import Answer
from quire.services.frontend.http.body import read_body
from quire.services.frontend.http.choices import open_choices, prepare_all
from quire.services.frontend.http.chunks import CompletionChunks
from quire.services.frontend.http.completion_body import CompletionBody
from quire.services.frontend.http.models import check_model
from quire.services.frontend.inference import Inference, PreparedRequest


class Completions:
    """The completions API over the frontend's request path."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def create(self, request: Request) -> ASGIApp:
        """POST /v1/completions."""
        self._inference.admit()
        body = await read_body(request, CompletionBody)
        check_model(body.model, self._inference)
        inference, wishes = self._inference, body.wishes()
        options = body.options(body.add_special_tokens is not False, caller_trace(request.headers.items()))
        prompts = body.prompts()
        prepared = await prepare_all(inference, request, prompts, body.sampling(), options)
        pairs = zip(prompts, prepared, strict=True) if wishes.echo else ()
        echoes = [await self._echo(prompt, each) for (_, prompt), each in pairs]
        requests = open_choices(inference, request, prepared, wishes.best_of, whole=not body.stream)
        return Answer(inference, requests, CompletionChunks(inference, requests, wishes, echoes), bool(body.stream))

    async def _echo(self, prompt: str | list[int], prepared: PreparedRequest) -> str:
        """A prompt's text: as it was given, or else that of the token ids that are kept of it."""
        kept = prepared.options.prompt.truncate_prompt_tokens
        if isinstance(prompt, str) and (kept is None or len(prepared.prompt) < kept):
            return prompt
        return await self._inference.decode(prepared.prompt, "prompt", skip_special_tokens=False)
