"""POST /v1/chat/completions."""

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from quire.engine.beam_search_validation import validate_beam_search
from quire.engine.chat.chat_format import ChatFormat
from quire.engine.chat.tool_choice import ToolChoice
from quire.services.frontend.call import current_call
from quire.services.frontend.http.answer import Answer
from quire.services.frontend.http.body import read_body
from quire.services.frontend.http.chat_body import ChatBody
from quire.services.frontend.http.chat_chunks import ChatChunks
from quire.services.frontend.http.chat_logprobs import ChatLogprobs
from quire.services.frontend.http.chat_prompts import chat_prompt
from quire.services.frontend.http.choices import open_choices, prepare_all
from quire.services.frontend.http.searches import search_all
from quire.services.frontend.inference import Inference


class ChatCompletions:
    """The chat API over the frontend's request path.

    Args:
        inference: answers prompts.
        chat: makes prompts of messages.
    """

    def __init__(self, inference: Inference, chat: ChatFormat) -> None:
        self._inference = inference
        self._chat = chat

    async def create(self, request: Request) -> ASGIApp:
        """POST /v1/chat/completions."""
        inference = self._inference
        inference.admit()
        body = await read_body(request, ChatBody)
        adapter = inference.adapter(body.model)
        options, num_choices = body.options(False, current_call().trace, adapter), body.num_choices()
        conversation = await body.conversation()
        tool_choice = ToolChoice.read(body.tool_choice, conversation.tool_names)
        prompt, params = await chat_prompt(inference, self._chat, request, body, conversation, tool_choice)
        search = body.beam_search(params, num_choices)
        if search is not None:
            validate_beam_search(search)
            params = search.sampling
        texts = [("messages", prompt.text)]
        prepared = await prepare_all(inference, request, texts, params, options, fills_context=True)
        logprobs = ChatLogprobs(inference.tokenizer) if body.logprobs else None
        if search is not None:
            (answers,) = await search_all(inference, request, prepared, search, num_choices)
            chunks = ChatChunks(answers, adapter or inference.model, prompt, body.stream_usage, logprobs)
            return JSONResponse(chunks.whole([each.completion for each in answers]))
        requests = open_choices(inference, request, prepared, num_choices, whole=not body.stream)
        chunks = ChatChunks(requests, adapter or inference.model, prompt, body.stream_usage, logprobs)
        return Answer(inference, requests, chunks, bool(body.stream), body.structure_names)
