"""POST /v1/responses."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.chat_format import ChatFormat
from quire.engine.chat.tool_choice import ToolChoice
from quire.services.frontend.caller_trace import caller_trace
from quire.services.frontend.http.answer import Answer
from quire.services.frontend.http.body import read_body
from quire.services.frontend.http.choices import open_choices
from quire.services.frontend.http.disconnect import while_connected
from quire.services.frontend.http.models import check_model
from quire.services.frontend.http.responses_body import ResponsesBody
from quire.services.frontend.http.responses_chunks import ResponsesChunks
from quire.services.frontend.http.responses_input import read_tool_choice
from quire.services.frontend.inference import Inference

# What the request path calls by other names than this API.
_NAMES: Final = {
    "messages": "input",
    "sampling.max_tokens": "max_output_tokens",
    "sampling.logprobs": "top_logprobs",
}


class Responses:
    """The Responses API over the frontend's request path. No response is kept.

    Args:
        inference: answers prompts.
        chat: makes prompts of messages.
    """

    def __init__(self, inference: Inference, chat: ChatFormat) -> None:
        self._inference = inference
        self._chat = chat

    async def create(self, request: Request) -> ASGIApp:
        """POST /v1/responses."""
        inference = self._inference
        inference.admit()
        body = await read_body(request, ResponsesBody)
        check_model(body.model, inference)
        options = body.options(False, caller_trace(request.headers.items()))
        params, conversation = body.sampling(), await body.read()
        echo = body.echo(params)
        given_choice = read_tool_choice(body.tool_choice, bool(conversation.tools))
        tool_choice = ToolChoice.read(given_choice, conversation.tool_names)
        with _own_names():
            async with while_connected(request):
                prompt = await self._chat.prompt(
                    conversation, body.chat_template, tool_choice, only_first_call=body.parallel_tool_calls is False
                )
                params = prompt.sampling(params)
                if body.thinking_token_budget is not None:
                    budget = prompt.thinking(body.thinking_token_budget, inference.tokenizer)
                    params = replace(params, thinking=budget)
                # The template has written the special tokens.
                prepared = await inference.prepare(
                    prompt.text, params, field="input", options=options, fills_context=True
                )
        (opened,) = requests = open_choices(inference, request, [prepared], whole=not body.stream)
        chunks = ResponsesChunks(opened, inference.model, prompt, echo, inference.tokenizer)
        return Answer(inference, requests, chunks, bool(body.stream))


@contextmanager
def _own_names() -> Iterator[None]:
    """Refusals name the fields of this API."""
    try:
        yield
    except InvalidRequest as error:
        if error.field not in _NAMES:
            raise
        raise InvalidRequest(_NAMES[error.field], error.value, error.limit) from error
