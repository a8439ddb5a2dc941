"""What a model answers in a chat, whole and in pieces."""

from collections.abc import Iterable
from dataclasses import dataclass

from quire.engine.api.completion import Completion, join
from quire.engine.chat.answer import join_deltas
from quire.engine.chat.delta import ContentDelta, Delta
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


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """What one piece of a stream adds to the answer.

    Attributes:
        deltas: of content, reasoning and tool calls, in order; none while what the text is stays open.
        completion: the piece of the text that they were read from; the last one says why the answer ended.
    """

    deltas: tuple[Delta, ...]
    completion: Completion

    @property
    def content(self) -> str:
        """Text for the user, to be joined."""
        return "".join(delta.text for delta in self.deltas if isinstance(delta, ContentDelta))


def join_chat(pieces: Iterable[ChatPiece]) -> ChatAnswer:
    """The whole answer from all its pieces, at least one, in order."""
    parts = list(pieces)
    message = join_deltas(delta for part in parts for delta in part.deltas)
    return ChatAnswer(message, join(part.completion for part in parts))
