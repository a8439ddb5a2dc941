"""POST /v1/chat/completions."""

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from quire.engine.beam_search_validation import validate_beam_search
from quire.engine.chat.chat_format import ChatFormat
from quire.engine.chat.tool_choice import ToolChoice
from quire.services.frontend.caller_trace import caller_trace
from quire.services.frontend.http.answer import Answer
from quire.services.frontend.http.body import read_body
from quire.services.frontend.http.chat_body import ChatBody
from quire.services.frontend.http.chat_chunks import ChatChunks
from quire.services.frontend.http.chat_logprobs import ChatLogprobs
from quire.services.frontend.http.choices import open_choices
from quire.services.frontend.http.disconnect import while_connected
from quire.services.frontend.http.models import check_model
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
        check_model(body.model, inference)
        options = body.options(False, caller_trace(request.headers.items()))
        params, num_choices, usage = body.sampling(), body.num_choices(), body.stream_usage
        conversation = await body.conversation()
        tool_choice = ToolChoice.read(body.tool_choice, conversation.tool_names)
        async with while_connected(request):
            prompt = await self._chat.prompt(
                conversation, body.chat_template, tool_choice, only_first_call=body.parallel_tool_calls is False
            )
            params = prompt.sampling(params)
            if body.thinking_token_budget is not None:
                budget = prompt.thinking(body.thinking_token_budget, inference.tokenizer)
                params = replace(params, thinking=budget)
            search = body.beam_search(params, num_choices)
            if search is not None:
                validate_beam_search(search)
                params = search.sampling
            # The template has written the special tokens.
            prepared = await inference.prepare(
                prompt.text, params, field="messages", options=options, fills_context=True
            )
        logprobs = ChatLogprobs(inference.tokenizer) if body.logprobs else None
        if search is not None:
            (answers,) = await search_all(inference, request, [prepared], search, num_choices)
            chunks = ChatChunks(answers, inference.model, prompt, usage, logprobs)
            return JSONResponse(chunks.whole([each.completion for each in answers]))
        requests = open_choices(inference, request, [prepared], num_choices, whole=not body.stream)
        chunks = ChatChunks(requests, inference.model, prompt, usage, logprobs)
        return Answer(inference, requests, chunks, bool(body.stream))
