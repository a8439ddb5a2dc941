"""Base of parsers of a model's text: each is written as if it had the whole text, and waits where it has not.

A parser is a generator that yields where it needs more text. What it makes of a text does not depend on how the text
is cut: it looks at characters one after another, and never at what has come.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from quire.engine.chat.delta import Delta, joined

T = TypeVar("T")
# A step of a parser: yields to wait for more text, and returns what it found.
Reading = Generator[None, None, T]


class Reader(ABC):
    """Text in pieces in, deltas out."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._is_closed = False
        self._deltas: list[Delta] = []
        self._reading = self._read()

    def push(self, text: str) -> list[Delta]:
        """What this piece of text adds to the answer."""
        self._text, self._at = self._text[self._at :] + text, 0
        next(self._reading, None)
        deltas, self._deltas = self._deltas, []
        return deltas

    def finish(self) -> list[Delta]:
        """What was held back, at the end of the text. Call once, and nothing after it."""
        self._is_closed = True
        return self.push("")

    @abstractmethod
    def _read(self) -> Reading[None]:
        """Reads the whole text. It must not end before the text does."""

    # ── steps of a parser ──

    def _put(self, delta: Delta) -> None:
        both = joined(self._deltas[-1], delta) if self._deltas else None
        if both is None:
            self._deltas.append(delta)
        else:
            self._deltas[-1] = both

    def _peek(self) -> Reading[str]:
        """The next character; "" at the end."""
        while self._at == len(self._text) and not self._is_closed:
            yield
        return self._text[self._at : self._at + 1]

    def _take(self) -> Reading[str]:
        """The next character, which is then over; "" at the end."""
        char = yield from self._peek()
        self._at += len(char)
        return char

    def _take_while(self, allows: Callable[[str], bool], limit: int | None = None) -> Reading[str]:
        """The characters before the first one that is not allowed, at most `limit`."""
        taken: list[str] = []
        while limit is None or len(taken) < limit:
            char = yield from self._peek()
            if not char or not allows(char):
                break
            taken.append(char)
            self._at += 1
        return "".join(taken)

    def _skip_space(self) -> Reading[str]:
        """The white space that is next, which is then over."""
        return (yield from self._take_while(str.isspace))

    def _skip(self, marker: str) -> Reading[bool]:
        """Whether the marker is next; it is then over, and else nothing is."""
        while len(self._text) - self._at < len(marker) and not self._is_closed:
            if not marker.startswith(self._text[self._at :]):
                return False
            yield
        if not self._text.startswith(marker, self._at):
            return False
        self._at += len(marker)
        return True

    def _until(self, markers: Sequence[str], put: Callable[[str], None]) -> Reading[str]:
        """Gives the text before the first marker to `put`, as it comes.

        Returns:
            the marker, which is then over; "" if the text ended.
        """
        while True:
            places = [(at, marker) for marker in markers if (at := self._text.find(marker, self._at)) >= 0]
            if places:
                at, marker = min(places)
                if at > self._at:
                    put(self._text[self._at : at])
                self._at = at + len(marker)
                return marker
            end = len(self._text) if self._is_closed else self._safe_end(markers)
            if end > self._at:
                put(self._text[self._at : end])
                self._at = end
            if self._is_closed:
                return ""
            yield

    def _rest(self, put: Callable[[str], None]) -> Reading[None]:
        """Gives all that is left to `put`, as it comes."""
        while (yield from self._peek()):
            put(self._text[self._at :])
            self._at = len(self._text)

    def _safe_end(self, markers: Sequence[str]) -> int:
        """Where the text's longest end begins that may still become a marker."""
        longest = max(map(len, markers)) - 1
        for at in range(max(self._at, len(self._text) - longest), len(self._text)):
            if any(marker.startswith(self._text[at:]) for marker in markers):
                return at
        return len(self._text)
