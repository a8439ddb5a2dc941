"""What a model answers in a chat."""

from dataclasses import dataclass

from quire.engine.api.completion import Completion
from quire.engine.chat.message import Message


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The whole answer to a conversation.

    Attributes:
        message: of the assistant: content, reasoning and tool calls. It may go back as a part of the conversation.
        completion: the text that it was read from, with tokens, usage, and why it ended.
    """

    message: Message
    completion: Completion
