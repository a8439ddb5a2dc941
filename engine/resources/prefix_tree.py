"""Tokens of published blocks by the prefix that they continue, to find a block that agrees in part."""

from array import array

from quire.engine.resources.publication import Entry

# Candidates looked at for one prefix; more siblings than this are rarely worth a longer search.
MAX_CANDIDATES = 32


class PrefixTree:
    """Children of each prefix: blocks whose parent it is, with their tokens."""

    def __init__(self) -> None:
        self._children: dict[bytes, dict[int, array[int]]] = {}

    def add(self, entry: Entry) -> None:
        """The block is found by its tokens from now on, if they are known."""
        block, _, parent, tokens, _, _ = entry
        if tokens is not None:
            self._children.setdefault(parent, {})[block] = tokens

    def remove(self, entry: Entry) -> None:
        """The block's content is gone."""
        block, _, parent, tokens, _, _ = entry
        if tokens is not None:
            siblings = self._children[parent]
            del siblings[block]
            if not siblings:
                del self._children[parent]

    def best(self, parent: bytes, tokens: "array[int]") -> tuple[int, int] | None:
        """(block, count): the block behind `parent` that agrees with most leading `tokens`, at least one."""
        best: tuple[int, int] | None = None
        for block, content in list(self._children.get(parent, {}).items())[:MAX_CANDIDATES]:
            count = _num_common(content, tokens)
            if count > (best[1] if best else 0):
                best = block, count
        return best


def _num_common(left: "array[int]", right: "array[int]") -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
