"""A conversation made into a prompt, and what will be read from the answer."""

from dataclasses import dataclass, replace

from quire.engine.api.completion import Completion
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.thinking import ThinkingBudget
from quire.engine.chat.answer import AnswerReader, join_deltas
from quire.engine.chat.answer_structure import behind_reasoning, format_of, required_calls, structural_tag
from quire.engine.chat.chat_answer import ChatAnswer
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.reasoning import THINK_BEGIN, THINK_END, ThinkReader
from quire.engine.chat.tool_choice import ToolChoice
from quire.engine.chat.tools.call_reader import CallReader
from quire.engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """For any number of answers.

    Attributes:
        text: to be tokenized without further special tokens.
        conversation: that it was made of.
        calls: reads tool calls; None: there are none.
        tool_choice: whether there must be some.
        only_first_call: further ones are left out.
        keeps_special_tokens: what stands around tool calls are special tokens of the model.
        has_reasoning: reasoning may come first.
        is_reasoning_open: the prompt has begun it.
    """

    text: str
    conversation: Conversation
    calls: type[CallReader] | None
    tool_choice: ToolChoice
    only_first_call: bool
    keeps_special_tokens: bool
    has_reasoning: bool
    is_reasoning_open: bool

    def sampling(self, params: SamplingParams) -> SamplingParams:
        """How to sample an answer that can be read.

        Raises:
            InvalidRequest: the parameters contradict the choice of tools.
        """
        if self.keeps_special_tokens:
            params = replace(params, skip_special_tokens=False)
        structure = params.structured_output
        if self.tool_choice.mode == "required":
            if structure is not None:
                limit = f"must be left out beside {structure.given[0]}"
                raise InvalidRequest("tool_choice", self.tool_choice.mode, limit)
            tools, name = self.conversation.tools, self.tool_choice.name
            content = required_calls(tools, name, only_first=self.only_first_call)
        # A structural tag says by itself what may come first.
        elif structure is None or structure.structural_tag is not None or not self.has_reasoning:
            return params
        else:
            content = format_of(structure)
        if self.has_reasoning:
            content = behind_reasoning(content, is_open=self.is_reasoning_open)
        return replace(params, structured_output=structural_tag(content))

    def thinking(self, max_tokens: int, tokenizer: Tokenizer) -> ThinkingBudget:
        """A limit of the tokens in which the model reasons.

        Raises:
            InvalidRequest: this model does not reason.
        """
        if not self.has_reasoning:
            limit = "must be left out: this model writes no reasoning; see --reasoning-format"
            raise InvalidRequest("thinking_token_budget", max_tokens, limit)
        begin = () if self.is_reasoning_open else tokenizer.mark(THINK_BEGIN)
        return ThinkingBudget(max_tokens, begin, tokenizer.mark(THINK_END))

    def reader(self) -> AnswerReader:
        """For one answer."""
        return AnswerReader(
            ThinkReader(self.is_reasoning_open) if self.has_reasoning else None,
            self.calls(self.conversation.tools) if self.calls else None,
            only_first_call=self.only_first_call,
        )

    def answer(self, completion: Completion) -> ChatAnswer:
        """A whole answer, read."""
        return ChatAnswer(join_deltas(self.reader().finish(completion.text)), completion)
