"""Tokens of published blocks by the prefix that they continue, to find a block that agrees in part."""

from array import array

# Candidates looked at for one prefix; more siblings than this are rarely worth a longer search.
MAX_CANDIDATES = 32


class PrefixTree:
    """Children of each prefix: blocks whose parent it is, with their tokens."""

    def __init__(self) -> None:
        self._children: dict[bytes, dict[int, array[int]]] = {}
        self._parents: dict[int, bytes] = {}

    def add(self, block: int, parent: bytes, tokens: "array[int]") -> None:
        """A block with these tokens was published behind the prefix of hash `parent`."""
        self._children.setdefault(parent, {})[block] = tokens
        self._parents[block] = parent

    def remove(self, block: int) -> None:
        """The block's content is gone; harmless if it is not known."""
        parent = self._parents.pop(block, None)
        if parent is not None:
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
