"""Finds stop strings in text that comes in pieces, and holds back no more than may still begin one.

The match that is complete first wins; of two that are complete with the same character, the longer one. This
needs no look-ahead, so a sequence ends with the token that completes a match, however the text is cut. It is
not "leftmost wins": of "abcd" and "bc", the text "abcd" matches "bc".

The automaton is Aho and Corasick's ("Efficient string matching", CACM 18(6), 1975): a character costs the
same for one stop string and for many.
"""

from collections.abc import Sequence


class StopMatcher:
    """One sequence's text against its stop strings.

    Args:
        stops: none of them empty; without any, text passes through.
        includes_match: the match is released with the text before it.

    Attributes:
        matched: the stop string that ended the text.
    """

    def __init__(self, stops: Sequence[str], includes_match: bool = False) -> None:
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        # Node 0 is the root; a node is a prefix of some stop string, and its depth is that prefix's length.
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._suffix = [0]
        self._match: list[str | None] = [None]
        for stop in stops:
            self._match[self._grow(stop)] = stop
        self._link()
        self._includes_match = includes_match
        self._node = 0
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Adds text and returns what can be released: up to the match, and nothing after a match."""
        if self.matched is not None:
            return ""
        if len(self._next) == 1:
            return text
        pending = self._held + text
        for position, char in enumerate(text, start=len(self._held)):
            self._node = self._step(self._node, char)
            self.matched = self._match[self._node]
            if self.matched is not None:
                self._held = ""
                return pending[: position + 1 - (0 if self._includes_match else len(self.matched))]
        cut = len(pending) - self._depth[self._node]
        self._held = pending[cut:]
        return pending[:cut]

    def flush(self) -> str:
        """Returns the text held back, at the end of the text."""
        held, self._held, self._node = self._held, "", 0
        return held

    def _grow(self, stop: str) -> int:
        node = 0
        for char in stop:
            if char not in self._next[node]:
                self._next[node][char] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[node] + 1)
                self._suffix.append(0)
                self._match.append(None)
            node = self._next[node][char]
        return node

    def _link(self) -> None:
        """Sets each node's longest proper suffix that is a node, and the match it inherits; breadth first."""
        queue = list(self._next[0].values())
        for node in queue:
            for char, child in self._next[node].items():
                self._suffix[child] = self._step(self._suffix[node], char)
                queue.append(child)
            if self._match[node] is None:
                self._match[node] = self._match[self._suffix[node]]

    def _step(self, node: int, char: str) -> int:
        while node and char not in self._next[node]:
            node = self._suffix[node]
        return self._next[node].get(char, 0)
