"""What the JSON of an answer says of its request."""

from typing import Protocol

from quire.engine.arrays import Int32Array


class Answered(Protocol):
    """A request, whichever way its answers are found."""

    @property
    def request_id(self) -> str:
        """Its name."""

    @property
    def prompt(self) -> Int32Array:
        """Token ids, int32, shape (num_prompt,)."""

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt found in the cache; None: it has not begun."""
