"""The output of an answer of the Responses API: its items, as the reader of the model's text finds them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from quire.engine.chat.delta import CallDelta, ContentDelta, Delta, ReasoningDelta
from quire.services.frontend.http.responses_items import (
    CallItem,
    Event,
    MessageItem,
    OutputItem,
    ReasoningItem,
    Status,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the answer whose log-probability is wanted.

    Attributes:
        size: characters that it adds to the text.
        logprob: JSON.
    """

    size: int
    logprob: Any


class ResponsesOutput:
    """Items one after the other, of which only the last is open.

    Args:
        request_id: makes the items' ids unique.

    Attributes:
        has_reasoning: an item of reasoning is among them.
    """

    def __init__(self, request_id: str) -> None:
        self.has_reasoning = False
        self._request_id = request_id
        self._closed: list[dict[str, Any]] = []
        self._open: OutputItem | None = None
        # No message has them yet.
        self._tokens: list[Token] = []

    def push(self, deltas: Iterable[Delta], token: Token | None = None) -> Iterator[Event]:
        """Events of what has come.

        Args:
            deltas: that the token's text adds, or any text without tokens.
            token: where log-probabilities are wanted; texts must then come token by token.
        """
        if token is not None:
            self._tokens.append(token)
        for delta in deltas:
            item = self._open
            if item is None or not _goes_on(item, delta):
                yield from self.end("completed")
                item = self._open = self._new(delta)
                yield from item.begin()
            text = delta.arguments if isinstance(delta, CallDelta) else delta.text
            if isinstance(item, MessageItem):
                item.add_logprobs(self._spelling(len(text)))
            yield from item.push(text)

    def end(self, status: Status) -> Iterator[Event]:
        """Ends the open item, if there is one."""
        if self._open is not None:
            yield from self._open.end(status)
            self._closed.append(self._open.as_json(status))
            self._open = None

    def as_json(self) -> list[dict[str, Any]]:
        """All items; one that is open is incomplete."""
        return [*self._closed, *([self._open.as_json("incomplete")] if self._open else [])]

    def _new(self, delta: Delta) -> OutputItem:
        index = len(self._closed)
        name = f"{self._request_id}_{index}"
        match delta:
            case ContentDelta():
                return MessageItem(f"msg_{name}", index)
            case ReasoningDelta():
                self.has_reasoning = True
                return ReasoningItem(f"rs_{name}", index)
            case CallDelta(_, call_id, called):
                return CallItem(f"fc_{name}", index, call_id, called)

    def _spelling(self, num_chars: int) -> list[Any]:
        """Log-probabilities of the last tokens that have so many characters; others before them spell no message.

        Tokens that end within a character add nothing to the text: those in front belong to its first character.
        """
        found: list[Any] = []
        while self._tokens and (num_chars > 0 or self._tokens[-1].size == 0):
            token = self._tokens.pop()
            num_chars -= token.size
            found.append(token.logprob)
        self._tokens.clear()
        return found[::-1]


def _goes_on(item: OutputItem, delta: Delta) -> bool:
    """Whether the delta is more of the item."""
    match delta:
        case ContentDelta():
            return isinstance(item, MessageItem)
        case ReasoningDelta():
            return isinstance(item, ReasoningItem)
        case CallDelta(name=name):
            return isinstance(item, CallItem) and not name
