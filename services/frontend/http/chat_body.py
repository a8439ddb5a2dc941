"""The body of POST /v1/chat/completions: OpenAI's fields, and those that other servers have added to them."""

import asyncio
from typing import Any, ClassVar, Final, Literal

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.engine.chat.conversation import Conversation
from quire.services.frontend.http.beam_fields import BeamFields
from quire.services.frontend.http.body import Body

# That are read at once: that is faster than to wake a thread.
FEW_MESSAGES: Final = 64


class ConversationFields(Body):
    """Fields that make a prompt of messages; /tokenize has them, too."""

    messages: Any = None
    tools: Any = None
    documents: Any = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    reasoning_effort: str | None = None
    """A variable of the template."""

    # Long conversations with many tools have so many.
    max_nested: ClassVar[int] = 16 * 1024

    async def conversation(self) -> Conversation:
        """What the template is given. That of many messages is read beside the event loop.

        Raises:
            InvalidRequest: names the part at fault, such as "messages[2].content".
        """
        is_long = isinstance(self.messages, list) and len(self.messages) > FEW_MESSAGES
        return await asyncio.to_thread(self._read) if is_long else self._read()

    def _read(self) -> Conversation:
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return Conversation.read(
            self.messages,
            tools=self.tools,
            documents=self.documents,
            template_kwargs={**effort, **(self.chat_template_kwargs or {})},
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
        )


class ChatBody(BeamFields, ConversationFields):
    """Fields whose type allows one value are known and not supported otherwise."""

    messages: Any
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    thinking_token_budget: int | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    """The older name of `max_completion_tokens`."""
    logprobs: bool | None = None
    top_logprobs: int | None = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    """For the caller's own records, as those that follow; not looked at."""
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def sampling(self) -> SamplingParams:
        """How to sample. Without a limit of tokens the answer may be as long as the context.

        Raises:
            InvalidRequest: fields contradict each other.
        """
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            limit = f"must be max_completion_tokens, {self.max_completion_tokens}, or be left out"
            raise InvalidRequest("max_tokens", self.max_tokens, limit)
        max_tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs", self.top_logprobs, "must be left out unless logprobs is true")
        return self.sampling_params(max_tokens, (self.top_logprobs or 0) if self.logprobs else None)
