"""What a piece of a model's text adds to its answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A tool call begins, or its arguments go on.

    Attributes:
        index: of the call within the answer, from 0.
        id: names the call; "" unless it begins.
        name: of the function; "" unless it begins.
        arguments: JSON text, to be joined.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


Delta = ContentDelta | ReasoningDelta | CallDelta


def joined(earlier: Delta, later: Delta) -> Delta | None:
    """Both as one; None if they cannot be."""
    match earlier, later:
        case ContentDelta(first), ContentDelta(second):
            return ContentDelta(first + second)
        case ReasoningDelta(first), ReasoningDelta(second):
            return ReasoningDelta(first + second)
        case CallDelta(index, call_id, name, first), CallDelta(other, "", "", second) if index == other:
            return CallDelta(index, call_id, name, first + second)
    return None
