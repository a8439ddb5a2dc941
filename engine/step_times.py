"""How long a step may take, by its size and by how long others took."""

from typing import Final

# Of the first step of all, which may load or compile what it needs, and for each of its tokens: a slow processor with a
# large model takes a fraction of that.
FIRST_SECONDS: Final = 30.0
FIRST_SECONDS_PER_TOKEN: Final = 1.0
# A step may take so many times as long as others of its size: twice the tokens, and a longer context to attend to.
MARGIN: Final = 4.0
# And so many times as long as larger sizes seem to take, if only smaller ones were seen.
UNSEEN_MARGIN: Final = 16.0
# From step to step the longest time of a size counts less.
_DECAY: Final = 0.95


class StepTimes:
    """Of one executor. Sizes are told apart by powers of two of a step's tokens. One thread asks, another adds."""

    def __init__(self) -> None:
        self._longest: dict[int, float] = {}

    def expected(self, num_tokens: int) -> float:
        """Seconds in which a step of so many tokens ends, unless something is wrong."""
        size, known = num_tokens.bit_length(), self._longest
        if as_large := [each for each in known if each >= size]:
            return MARGIN * known[min(as_large)]
        if known:
            largest = max(known)
            return UNSEEN_MARGIN * known[largest] * 2.0 ** (size - largest)
        return FIRST_SECONDS + FIRST_SECONDS_PER_TOKEN * num_tokens

    def add(self, num_tokens: int, seconds: float) -> None:
        """A step took so long."""
        size = num_tokens.bit_length()
        # Replaced, as it may be read meanwhile.
        self._longest = self._longest | {size: max(seconds, _DECAY * self._longest.get(size, 0.0))}
