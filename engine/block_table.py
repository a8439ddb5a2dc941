"""Where a sequence's tokens are, as far as one cache group keeps them."""

from typing import Final

GONE: Final = -1
"""In the place of a block that was let go, or never taken: no query to come sees its positions."""


class BlockTable:
    """Blocks of a sequence in one cache group.

        blocks   [ · ][ · ][ 9 ][ 4 ]     position p lives in blocks[p // block_size]
                 └ num_gone ┘

    Attributes:
        blocks: their numbers in the pool, behind `num_gone` times `GONE`.
        num_gone: leading blocks that are not held.
        holder: who holds them in the pool's ledger.
    """

    __slots__ = ("blocks", "holder", "num_gone")

    def __init__(self, holder: str, blocks: list[int], num_gone: int = 0) -> None:
        self.holder = holder
        self.blocks = blocks
        self.num_gone = num_gone

    @property
    def held(self) -> list[int]:
        """Blocks that are held, by position."""
        return self.blocks[self.num_gone :]
