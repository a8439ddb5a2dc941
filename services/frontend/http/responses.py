"""POST /v1/responses."""

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp

from quire.engine.api.errors import RequestError
from quire.engine.chat.chat_format import ChatFormat
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.tool_choice import ToolChoice
from quire.services.frontend.call import current_call
from quire.services.frontend.http.answer import Answer
from quire.services.frontend.http.body import read_body
from quire.services.frontend.http.chat_prompts import chat_prompt
from quire.services.frontend.http.choices import open_choices, prepare_all
from quire.services.frontend.http.errors import FieldNames, refusal
from quire.services.frontend.http.responses_body import ResponsesBody
from quire.services.frontend.http.responses_chunks import ResponsesChunks
from quire.services.frontend.http.responses_input import read_tool_choice
from quire.services.frontend.inference import Inference

_NAMES: Final = (
    ("messages", "input"),
    ("sampling.max_tokens", "max_output_tokens"),
    ("sampling.logprobs", "top_logprobs"),
)
# What an answer must match, by what asks for it.
_TOOLS: Final = (("sampling.structured_output.structural_tag", "tools"),)
_FORMAT: Final = (
    ("sampling.structured_output.json_schema", "text.format.schema"),
    ("sampling.structured_output.structural_tag", "text.format"),
)


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
        self._inference.admit()
        body = await read_body(request, ResponsesBody)
        conversation = await body.read()
        given_choice = read_tool_choice(body.tool_choice, bool(conversation.tools))
        tool_choice = ToolChoice.read(given_choice, conversation.tool_names)
        structure = _TOOLS if tool_choice.mode == "required" else _FORMAT if body.has_format else ()
        names = (*_NAMES, *structure)
        try:
            return await self._answer(request, body, conversation, tool_choice, names)
        except RequestError as error:
            return refusal(error, names).response()

    async def _answer(
        self,
        request: Request,
        body: ResponsesBody,
        conversation: Conversation,
        tool_choice: ToolChoice,
        names: FieldNames,
    ) -> Answer:
        inference, echo = self._inference, body.echo(body.sampling())
        adapter = inference.adapter(body.model)
        options = body.options(False, current_call().trace, adapter)
        prompt, params = await chat_prompt(inference, self._chat, request, body, conversation, tool_choice)
        texts = [("input", prompt.text)]
        prepared = await prepare_all(inference, request, texts, params, options, fills_context=True)
        (opened,) = requests = open_choices(inference, request, prepared, whole=not body.stream)
        chunks = ResponsesChunks(opened, adapter or inference.model, prompt, echo, inference.tokenizer)
        return Answer(inference, requests, chunks, bool(body.stream), names)
