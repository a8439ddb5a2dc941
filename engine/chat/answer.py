"""The parts of one answer: reasoning, content and tool calls, from the model's text."""

from collections.abc import Iterable
from dataclasses import dataclass

from quire.engine.chat.delta import CallDelta, ContentDelta, Delta, ReasoningDelta
from quire.engine.chat.message import Message, ToolCall
from quire.engine.chat.reasoning import ThinkReader
from quire.engine.chat.tools.call_reader import CallReader


class AnswerReader:
    """Text in pieces in, deltas out.

    Args:
        reasoning: finds the reasoning; None: there is none.
        calls: finds tool calls behind it; None: there are none.
        only_first_call: leaves out all others.

    Attributes:
        has_calls: a tool call has been told.
    """

    def __init__(
        self, reasoning: ThinkReader | None, calls: CallReader | None, *, only_first_call: bool = False
    ) -> None:
        self._reasoning = reasoning
        self._calls = calls
        self._only_first_call = only_first_call

    @property
    def has_calls(self) -> bool:
        return self._calls is not None and self._calls.num_calls > 0

    def push(self, text: str) -> list[Delta]:
        """What this piece of text adds to the answer."""
        if self._reasoning is not None:
            return self._split(self._reasoning.push(text))
        return self._split([ContentDelta(text)] if text else [])

    def finish(self, text: str = "") -> list[Delta]:
        """The last piece, and what was held back. Call once."""
        deltas = self.push(text)
        if self._reasoning is not None:
            deltas += self._split(self._reasoning.finish())
        if self._calls is not None:
            deltas += self._kept(self._calls.finish())
        return deltas

    def _split(self, deltas: list[Delta]) -> list[Delta]:
        calls = self._calls
        if calls is None:
            return deltas
        found: list[Delta] = []
        for delta in deltas:
            found += self._kept(calls.push(delta.text)) if isinstance(delta, ContentDelta) else [delta]
        return found

    def _kept(self, deltas: list[Delta]) -> list[Delta]:
        if not self._only_first_call:
            return deltas
        return [delta for delta in deltas if not isinstance(delta, CallDelta) or delta.index == 0]


@dataclass
class _Call:
    id: str
    name: str
    arguments: list[str]


def join_deltas(deltas: Iterable[Delta]) -> Message:
    """The assistant's message from all its deltas, in order; content None if there is none."""
    content: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, _Call] = {}
    for delta in deltas:
        match delta:
            case ContentDelta(text):
                content.append(text)
            case ReasoningDelta(text):
                reasoning.append(text)
            case CallDelta(index, call_id, name, arguments):
                calls.setdefault(index, _Call(call_id, name, [])).arguments.append(arguments)
    return Message(
        role="assistant",
        content="".join(content) if content or not (calls or reasoning) else None,
        reasoning="".join(reasoning) if reasoning else None,
        tool_calls=tuple(ToolCall(call.name, "".join(call.arguments), call.id) for call in calls.values()),
    )
