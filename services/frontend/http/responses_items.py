"""Items of an answer of the Responses API, and the events that tell of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

# Without its sequence number.
Event = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete"]


class OutputItem(ABC):
    """One item: it begins, goes on, and ends.

    Args:
        item_id: names it.
        index: its place in the answer.
    """

    event: ClassVar[str]
    """What its events begin with."""
    result: ClassVar[str]
    """The field of its last event that has all of its text."""

    def __init__(self, item_id: str, index: int) -> None:
        self._id = item_id
        self._index = index
        self._texts: list[str] = []

    @abstractmethod
    def as_json(self, status: Status) -> dict[str, Any]:
        """The item with what has come of it."""

    def begin(self) -> Iterator[Event]:
        yield self._told("added", "in_progress")

    def push(self, text: str) -> Iterator[Event]:
        """More of its text."""
        if text:
            self._texts.append(text)
            yield {"type": f"{self.event}.delta", **self._place(), "delta": text}

    def end(self, status: Status) -> Iterator[Event]:
        yield {"type": f"{self.event}.done", **self._place(), self.result: self._text}
        yield self._told("done", status)

    @property
    def _text(self) -> str:
        return "".join(self._texts)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self._index}

    def _told(self, what: str, status: Status) -> Event:
        item = self.as_json(status)
        return {"type": f"response.output_item.{what}", "output_index": self._index, "item": item}


class TextItem(OutputItem):
    """An item whose text is a part of its content."""

    result = "text"

    @abstractmethod
    def part(self) -> dict[str, Any]:
        """The part with what has come of it."""

    def begin(self) -> Iterator[Event]:
        yield from super().begin()
        yield {"type": "response.content_part.added", **self._place(), "part": self.part()}

    def end(self, status: Status) -> Iterator[Event]:
        done, item_done = super().end(status)
        yield done
        yield {"type": "response.content_part.done", **self._place(), "part": self.part()}
        yield item_done

    def _place(self) -> dict[str, Any]:
        return {**super()._place(), "content_index": 0}

    def _content(self, status: Status) -> list[dict[str, Any]]:
        return [] if status == "in_progress" else [self.part()]


class MessageItem(TextItem):
    """Text for the user, with log-probabilities of its tokens where they are wanted."""

    event = "response.output_text"

    def __init__(self, item_id: str, index: int) -> None:
        super().__init__(item_id, index)
        self._logprobs: list[Any] = []
        self._num_told = 0

    def add_logprobs(self, logprobs: Sequence[Any]) -> None:
        """Of the tokens of the text that comes next."""
        self._logprobs += logprobs

    def part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": self._logprobs}

    def as_json(self, status: Status) -> dict[str, Any]:
        content = self._content(status)
        return {"type": "message", "id": self._id, "role": "assistant", "status": status, "content": content}

    def push(self, text: str) -> Iterator[Event]:
        for event in super().push(text):
            fresh = self._logprobs[self._num_told :]
            self._num_told = len(self._logprobs)
            yield {**event, "logprobs": fresh}

    def end(self, status: Status) -> Iterator[Event]:
        done, *rest = super().end(status)
        yield {**done, "logprobs": self._logprobs}
        yield from rest


class ReasoningItem(TextItem):
    """What the model thinks before it answers."""

    event = "response.reasoning_text"

    def part(self) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": self._text}

    def as_json(self, status: Status) -> dict[str, Any]:
        content = self._content(status)
        return {"type": "reasoning", "id": self._id, "summary": [], "status": status, "content": content}


class CallItem(OutputItem):
    """A call of a function.

    Args:
        item_id, index: as of any item.
        call_id: that its output names.
        name: of the function.
    """

    event = "response.function_call_arguments"
    result = "arguments"

    def __init__(self, item_id: str, index: int, call_id: str, name: str) -> None:
        super().__init__(item_id, index)
        self._call_id = call_id
        self._name = name

    def as_json(self, status: Status) -> dict[str, Any]:
        return {
            "type": "function_call",
            "id": self._id,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": self._text,
            "status": status,
        }

    def end(self, status: Status) -> Iterator[Event]:
        done, told = super().end(status)
        yield {**done, "name": self._name}
        yield told
