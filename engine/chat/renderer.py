"""Conversations to prompts beside an event loop, which no template and no conversation holds up."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from quire.engine.api.errors import InvalidRequest
from quire.engine.chat.conversation import Conversation
from quire.engine.chat.folder_templates import FolderTemplates
from quire.engine.chat.render_process import RenderProcess
from quire.engine.chat.template import MAX_SOURCE_CHARS, ChatTemplate

# Messages of which a prompt is made at once: that is faster than to wake a thread.
_FEW_MESSAGES: Final = 32


class ChatRenderer:
    """All methods belong to one event loop.

    Args:
        templates: of the model.
    """

    def __init__(self, templates: FolderTemplates) -> None:
        self._templates = templates
        self._thread = ThreadPoolExecutor(1, "quire-chat")
        self._process = RenderProcess(templates.special_tokens)

    async def render(self, conversation: Conversation, source: str | None = None) -> str:
        """The prompt's text, to be tokenized without further special tokens.

        Args:
            source: a template to use instead of the model's, or the name of one of the model's.

        Raises:
            InvalidRequest: there is no template, or the conversation cannot be rendered by it; names the field.
            Overloaded: too many conversations wait.
        """
        template = self.choose(conversation, source)
        if template is None:
            assert source is not None
            return await self._process.render(source, conversation)
        if len(conversation.messages) <= _FEW_MESSAGES:
            return template.render(conversation)
        return await asyncio.get_running_loop().run_in_executor(self._thread, template.render, conversation)

    def choose(self, conversation: Conversation, source: str | None) -> ChatTemplate | None:
        """The model's template for a conversation; None if its own is to be used."""
        if source is not None:
            if len(source) > MAX_SOURCE_CHARS:
                limit = f"must be at most {MAX_SOURCE_CHARS} characters"
                raise InvalidRequest("chat_template", len(source), limit)
            return self._templates.templates.get(source)
        template = self._templates.choose(bool(conversation.tools))
        if template is None:
            limit = "cannot be used: the model has no chat template; set --chat-template, or give chat_template"
            raise InvalidRequest("messages", [message.role for message in conversation.messages], limit)
        return template

    async def close(self) -> None:
        """Ends thread and process; what waits is not rendered."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self._process.close()
