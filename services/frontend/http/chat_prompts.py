"""A conversation made into a prompt, for every API of chats."""

from dataclasses import replace

from starlette.requests import Request

from quire.engine.api.sampling import SamplingParams
from quire.engine.chat.chat_format import ChatFormat
from quire.engine.chat.chat_prompt import ChatPrompt
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.tool_choice import ToolChoice
from quire.services.frontend.call import current_call
from quire.services.frontend.http.chat_body import ChatBody
from quire.services.frontend.http.disconnect import while_connected
from quire.services.frontend.http.responses_body import ResponsesBody
from quire.services.frontend.inference import Inference


async def chat_prompt(
    inference: Inference,
    chat: ChatFormat,
    request: Request,
    body: ChatBody | ResponsesBody,
    conversation: Conversation,
    tool_choice: ToolChoice,
) -> tuple[ChatPrompt, SamplingParams]:
    """The prompt, in which the template has written the special tokens, and how to sample what can be read.

    Raises:
        RequestError: it is refused.
        ClientDisconnect: the client has left.
    """
    async with while_connected(request):
        with current_call().part("render"):
            prompt = await chat.prompt(
                conversation, body.chat_template, tool_choice, only_first_call=body.parallel_tool_calls is False
            )
    params = prompt.sampling(body.sampling())
    if body.thinking_token_budget is not None:
        params = replace(params, thinking=prompt.thinking(body.thinking_token_budget, inference.tokenizer))
    return prompt, params
