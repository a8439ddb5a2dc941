"""How one model chats: its templates, and how it writes tool calls and reasoning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.engine.api.completion import Completion
from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.answer import AnswerReader, join_deltas
from quire.engine.chat.chat_answer import ChatAnswer
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.folder_templates import FolderTemplates
from quire.engine.chat.reasoning import ThinkReader, begins_reasoning, is_reasoning_open
from quire.engine.chat.renderer import ChatRenderer
from quire.engine.chat.tools.call_reader import CallReader
from quire.engine.chat.tools.formats import TOOL_FORMATS, recognise_tool_format
from quire.engine.config import ChatConfig


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation made into a text, and what will be read from the answer.

    Attributes:
        text: to be tokenized without further special tokens.
        calls: reads tool calls; None: there are none.
        has_reasoning: reasoning may come first.
        is_reasoning_open: the prompt has begun it.
        tool_names: of the functions that may be called.
        only_first_call: further ones are left out.
    """

    text: str
    calls: type[CallReader] | None
    has_reasoning: bool
    is_reasoning_open: bool
    tool_names: frozenset[str]
    only_first_call: bool

    @property
    def markers(self) -> frozenset[str]:
        """What stands around tool calls, and may be special tokens."""
        return frozenset(self.calls.markers if self.calls else ())

    def reader(self) -> AnswerReader:
        """For one answer."""
        return AnswerReader(
            ThinkReader(self.is_reasoning_open) if self.has_reasoning else None,
            self.calls(self.tool_names) if self.calls else None,
            only_first_call=self.only_first_call,
        )

    def answer(self, completion: Completion) -> ChatAnswer:
        """A whole answer, read."""
        return ChatAnswer(join_deltas(self.reader().finish(completion.text)), completion)


class ChatFormat:
    """Of one model. All methods belong to one event loop.

    Args:
        folder: of the model.
        config: where the folder does not say it.

    Raises:
        StartupError: a template cannot be read, or is none.
    """

    def __init__(self, folder: Path, config: ChatConfig) -> None:
        self._config = config
        self._templates = FolderTemplates.load(folder, config.chat_template)
        self._renderer = ChatRenderer(self._templates)

    @property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """What the folder's `tokenizer_config.json` has."""
        return self._templates.tokenizer_config

    @property
    def template(self) -> str | None:
        """The source of the template for conversations without tools; None: there is none."""
        found = self._templates.choose(False)
        return found.source if found else None

    async def prompt(
        self, conversation: Conversation, template: str | None = None, *, only_first_call: bool = False
    ) -> ChatPrompt:
        """The prompt for a conversation.

        Args:
            template: the request's own, or the name of one of the model's.
            only_first_call: one tool call at most is wanted.

        Raises:
            InvalidRequest: names the field at fault.
            Overloaded: too many conversations wait.
        """
        known = self._renderer.choose(conversation, template)
        if known is None and not self._config.request_chat_templates:
            raise InvalidRequest("chat_template", template, "must be left out, or name one of the model's")
        source = known.source if known else template or ""
        calls = self._calls(source) if conversation.tools else None
        text = await self._renderer.render(conversation, template)
        has_reasoning = self._config.reasoning_format == "think" or (
            self._config.reasoning_format == "auto" and begins_reasoning(source)
        )
        return ChatPrompt(
            text=text,
            calls=calls,
            has_reasoning=has_reasoning,
            is_reasoning_open=has_reasoning and is_reasoning_open(text, conversation),
            tool_names=conversation.tool_names,
            only_first_call=only_first_call,
        )

    async def close(self) -> None:
        """Ends what renders."""
        await self._renderer.close()

    def _calls(self, source: str) -> type[CallReader]:
        name = self._config.tool_call_format
        found = recognise_tool_format(source) if name == "auto" else name
        if found is None or found == "none":
            limit = "cannot be used: the chat template writes no tool calls that are known here; set --tool-call-format"
            raise InvalidRequest("tools", "tools", limit)
        return TOOL_FORMATS[found]
