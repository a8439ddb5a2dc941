"""`<think>` ... `</think>` in front of an answer, as DeepSeek-R1 and Qwen3 write it."""

from typing import Final

from quire.engine.chat.conversation import Conversation
from quire.engine.chat.delta import ContentDelta, ReasoningDelta
from quire.engine.chat.reader import Reader, Reading

THINK_BEGIN: Final = "<think>"
THINK_END: Final = "</think>"


class ThinkReader(Reader):
    """Splits a text into reasoning and content, without the white space at their borders.

    Args:
        is_open: the prompt ends within the reasoning: its template has begun it.
    """

    def __init__(self, is_open: bool) -> None:
        super().__init__()
        self._is_open = is_open
        self._space = ""

    def _read(self) -> Reading[None]:
        space = yield from self._skip_space()
        # One that the prompt has opened is opened again by some models.
        if (yield from self._skip(THINK_BEGIN)) or self._is_open:
            yield from self._skip_space()
            yield from self._until((THINK_END,), self._reason)
            space = ""
            yield from self._skip_space()
        if space:
            self._put(ContentDelta(space))
        yield from self._rest(lambda text: self._put(ContentDelta(text)))

    def _reason(self, text: str) -> None:
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            self._put(ReasoningDelta(kept))


def begins_reasoning(template: str) -> bool:
    """Whether the model of this chat template writes reasoning."""
    return THINK_END in template


def is_reasoning_open(prompt: str, conversation: Conversation) -> bool:
    """Whether the rendered prompt ends within the reasoning: its template has opened it, or the message it goes on."""
    if conversation.continue_final_message:
        last = conversation.messages[-1].text
        return last.rfind(THINK_BEGIN) > last.rfind(THINK_END)
    return prompt.rstrip().endswith(THINK_BEGIN)
