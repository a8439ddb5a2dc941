"""What a pool's mirror knows of a published block."""

from array import array
from typing import NamedTuple

from quire.engine.resources.prefix import group_of

# The fields of a `Publication` in their order. The mirror keeps plain tuples: every block published makes one, which
# takes a fifth of the time.
Entry = tuple[int, bytes, bytes, "array[int] | None", int, bool]


class Publication(NamedTuple):
    """A block that may be found by its hash.

    Attributes:
        block: its number.
        name: its hash.
        parent: hash of the block in front of it, or the root of its chain; b"": not known.
        tokens: its token ids; None: not known, since another scheduler published it.
        depth: blocks in front of it in its prefix.
        is_salted: whether requests with a cache salt or an adapter of their own alone find it.
    """

    block: int
    name: bytes
    parent: bytes = b""
    tokens: "array[int] | None" = None
    depth: int = 0
    is_salted: bool = False

    @property
    def group(self) -> int:
        """Its cache group."""
        return group_of(self.name)
