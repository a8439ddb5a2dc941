"""The body of POST /v1/responses: OpenAI's fields, and those of sampling and templates that the other APIs have."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.chat.conversation import Conversation
from quire.services.frontend.http.body import Body
from quire.services.frontend.http.chat_body import FEW_MESSAGES
from quire.services.frontend.http.responses_input import read_input, read_tools
from quire.services.frontend.http.sampling_fields import SamplingFields

LOGPROBS: Final = "message.output_text.logprobs"


class TextFormat(Body):
    """What the text must match."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None
    """An answer is held to its schema in either case."""


class TextFields(Body):
    """How the model writes."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    """A variable of the template."""


class ReasoningFields(Body):
    """How the model thinks."""

    effort: str | None = None
    """The template's variable `reasoning_effort`."""
    summary: Literal["auto"] | None = None
    """None is made: reasoning is given as it is."""


class ResponseStreamOptions(Body):
    """Options of a stream."""

    include_obfuscation: Literal[False] | None = None


class ResponsesBody(SamplingFields):
    """Fields whose type allows one value are known and not supported otherwise."""

    input: Any
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextFields | None = None
    reasoning: ReasoningFields | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    thinking_token_budget: int | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    """Reasoning comes in plain text, which can be sent back: it need not be encrypted."""
    n: Literal[1] | None = None
    truncation: Literal["disabled"] | None = None
    """To cut tokens off a prompt would cut the instructions off first."""
    store: bool | None = None
    """Nothing is kept, whatever it says, as the answer says."""
    previous_response_id: str | None = None
    conversation: Any = None
    background: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    """For the caller's own records, as those that follow; not looked at."""
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    # As for chats.
    max_nested: ClassVar[int] = 16 * 1024

    @property
    def has_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    @property
    def has_format(self) -> bool:
        """Whether the text must match something by this API's own field."""
        form = self.text.format if self.text else None
        return form is not None and form.type != "text"

    async def read(self) -> Conversation:
        """What the template is given. That of many items is read beside the event loop.

        Raises:
            InvalidRequest: names the part at fault, such as "input[2].content".
        """
        is_long = isinstance(self.input, list) and len(self.input) > FEW_MESSAGES
        return await asyncio.to_thread(self._read) if is_long else self._read()

    def _read(self) -> Conversation:
        for name in ("previous_response_id", "conversation"):
            if (value := getattr(self, name)) is not None:
                limit = "must be left out: nothing is kept here; send the earlier items as input"
                raise InvalidRequest(name, value, limit)
        variables = {
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            "verbosity": self.text.verbosity if self.text else None,
        }
        given = {name: value for name, value in variables.items() if value is not None}
        return Conversation.read(
            read_input(self.input, self.instructions),
            tools=read_tools(self.tools),
            template_kwargs={**given, **(self.chat_template_kwargs or {})},
        )

    def sampling(self) -> SamplingParams:
        """How to sample. Without a limit of tokens the answer may be as long as the context.

        Raises:
            InvalidRequest: fields contradict each other.
        """
        if self.top_logprobs and not self.has_logprobs:
            limit = f"must be left out unless include has {LOGPROBS}"
            raise InvalidRequest("top_logprobs", self.top_logprobs, limit)
        return self.sampling_params(self.max_output_tokens, (self.top_logprobs or 0) if self.has_logprobs else None)

    def echo(self, params: SamplingParams) -> dict[str, Any]:
        """Fields of the answer that say what was asked for.

        Raises:
            InvalidRequest: one has a number that JSON has not, such as NaN.
        """
        found = {
            "instructions": self.instructions,
            "tools": self.tools or [],
            "tool_choice": self.tool_choice or "auto",
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "text": {"format": {"type": "text"}, **_given(self.text)},
            "reasoning": {"effort": None, "summary": None, **_given(self.reasoning)},
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_output_tokens": self.max_output_tokens,
            "top_logprobs": self.top_logprobs or 0,
            "truncation": "disabled",
            "store": False,
            "background": False,
            "previous_response_id": None,
            "metadata": self.metadata or {},
            "user": self.user,
            "service_tier": self.service_tier,
            "safety_identifier": self.safety_identifier,
            "prompt_cache_key": self.prompt_cache_key,
        }
        for name, value in found.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError as error:
                raise InvalidRequest(name, value, "must have only numbers that JSON has") from error
        return found

    def _structures(self) -> Iterator[tuple[str, StructuredOutput]]:
        if self.response_format is not None:
            raise InvalidRequest("response_format", self.response_format.type, "must be given as text.format")
        form = self.text.format if self.text else None
        if form is not None and form.type == "json_object":
            yield "text.format", StructuredOutput(json_object=True)
        elif form is not None and form.type == "json_schema":
            if form.schema_ is None:
                raise InvalidRequest("text.format.schema", None, "must be given with this type")
            yield "text.format", StructuredOutput(json_schema=json.dumps(form.schema_))
        yield from super()._structures()


def _given(part: Body | None) -> dict[str, Any]:
    return part.model_dump(by_alias=True, exclude_none=True) if part else {}
