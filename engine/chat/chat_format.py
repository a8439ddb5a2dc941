"""How one model chats: its templates, and how it writes tool calls and reasoning."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.chat_prompt import ChatPrompt
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.folder_templates import FolderTemplates
from quire.engine.chat.reasoning import begins_reasoning, is_reasoning_open
from quire.engine.chat.renderer import ChatRenderer
from quire.engine.chat.tool_choice import AUTO, ToolChoice
from quire.engine.chat.tools.call_reader import CallReader
from quire.engine.chat.tools.formats import TOOL_FORMATS, recognise_tool_format
from quire.engine.chat.tools.required import RequiredReader
from quire.engine.config import ChatConfig


class ChatFormat:
    """Of one model. All methods belong to one event loop.

    Args:
        folder: of the model.
        special_tokens: of the model, as its vocabulary spells them.
        config: where the folder does not say it.

    Raises:
        StartupError: a template cannot be read, or is none.
    """

    def __init__(self, folder: Path, special_tokens: frozenset[str], config: ChatConfig) -> None:
        self._special_tokens = special_tokens
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
        self,
        conversation: Conversation,
        template: str | None = None,
        tool_choice: ToolChoice = AUTO,
        *,
        only_first_call: bool = False,
    ) -> ChatPrompt:
        """The prompt for a conversation.

        Args:
            template: the request's own, or the name of one of the model's.
            tool_choice: what is wanted of the conversation's tools.
            only_first_call: one tool call at most is wanted.

        Raises:
            InvalidRequest: names the field at fault.
            Overloaded: too many conversations wait.
        """
        conversation = replace(conversation, tools=tool_choice.offered(conversation.tools))
        known = self._renderer.choose(conversation, template)
        if known is None and not self._config.request_chat_templates:
            raise InvalidRequest("chat_template", template, "must be left out, or name one of the model's")
        source = known.source if known else template or ""
        calls = self._calls(source, tool_choice) if conversation.tools else None
        text = await self._renderer.render(conversation, template)
        has_reasoning = self._has_reasoning(source)
        return ChatPrompt(
            text=text,
            conversation=conversation,
            calls=calls,
            tool_choice=tool_choice,
            only_first_call=only_first_call,
            keeps_special_tokens=calls is not None and not self._special_tokens.isdisjoint(calls.markers),
            has_reasoning=has_reasoning,
            is_reasoning_open=has_reasoning and is_reasoning_open(text, conversation),
        )

    async def close(self) -> None:
        """Ends what renders."""
        await self._renderer.close()

    def _calls(self, source: str, tool_choice: ToolChoice) -> type[CallReader]:
        if tool_choice.mode == "required":
            return RequiredReader
        name = self._config.tool_call_format
        found = recognise_tool_format(source) if name == "auto" else name
        if found is None or found == "none":
            limit = "cannot be used: the chat template writes no tool calls that are known here; set --tool-call-format"
            raise InvalidRequest("tools", "tools", limit)
        return TOOL_FORMATS[found]

    def _has_reasoning(self, source: str) -> bool:
        how = self._config.reasoning_format
        return how == "think" or (how == "auto" and begins_reasoning(source))
