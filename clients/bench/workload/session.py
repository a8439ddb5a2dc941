"""The unit of load: turns that follow each other. An ordinary request is a session of one turn."""

from dataclasses import dataclass

Prompt = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request.

    Attributes:
        prompt: text or token ids; of a later turn, only what it adds to the history.
        output_tokens: tokens to generate.
    """

    prompt: Prompt
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Session:
    """Turns of which each is sent when the one before is answered.

    Attributes:
        at: seconds from the start at which the first turn is sent; None where the load decides.
    """

    turns: tuple[Turn, ...]
    at: float | None = None
