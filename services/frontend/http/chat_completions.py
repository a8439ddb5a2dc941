"""POST /v1/chat/completions."""

from starlette.requests import Request
from starlette.types import ASGIApp

from quire.engine.api.sampling import SamplingParams
from quire.engine.chat.chat_format import ChatFormat, ChatPrompt
from quire.engine.chat.conversation import Conversation
from quire.engine.open_request import OpenRequest
from quire.services.frontend.http.body import read_body
from quire.services.frontend.http.chat_body import ChatBody
from quire.services.frontend.http.chat_chunks import ChatChunks
from quire.services.frontend.http.chat_logprobs import ChatLogprobs
from quire.services.frontend.http.completions import Answer
from quire.services.frontend.http.disconnect import while_connected
from quire.services.frontend.http.models import check_model
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
        body.check_response_format()
        params, includes_usage = body.sampling(), body.includes_usage
        conversation = body.conversation(with_tools=body.wants_tools)
        prompt, opened = await self._open(request, body, conversation, params)
        logprobs = ChatLogprobs(inference.tokenizer) if body.logprobs else None
        chunks = ChatChunks(opened.request_id, inference.model, prompt, 1, includes_usage, logprobs)
        return Answer(inference, [opened], chunks, bool(body.stream), includes_usage)

    async def _open(
        self, request: Request, body: ChatBody, conversation: Conversation, params: SamplingParams
    ) -> tuple[ChatPrompt, OpenRequest]:
        opened = None
        try:
            async with while_connected(request):
                prompt = await self._chat.prompt(
                    conversation, body.chat_template, only_first_call=body.parallel_tool_calls is False
                )
                opened = await self._inference.submit(
                    prompt.text,
                    params,
                    field="messages",
                    options=body.options(),
                    whole=not body.stream,
                    add_special_tokens=False,
                    fills_context=True,
                )
        except BaseException:
            if opened is not None:
                self._inference.close(opened)
            raise
        return prompt, opened
