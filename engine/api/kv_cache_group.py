"""A cache group: layers that see the same positions share one block table. Knows neither layers nor blocks by number.

All blocks of a pool are of one size, which is that of `block_size` tokens in as many layers as a group has. So a block
serves whichever group takes it: no share of the pool is set aside for one, whatever lengths sequences have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class KVCacheGroup:
    """How much of a sequence the layers of a group see.

        window None   [0][1][2][3][4][5]          every block is kept
        window w       ·  ·  · [3][4][5]          what no query to come sees has been let go

    Attributes:
        window: a query at position p sees positions p - window + 1 … p; None: it sees all before it.
    """

    window: int | None = None

    def first_seen(self, position: int, block_size: int) -> int:
        """Index of the first block that a query at `position`, or at one behind it, sees."""
        return 0 if self.window is None else max(0, position - self.window + 1) // block_size

    def num_blocks(self, num_tokens: int, block_size: int) -> int:
        """Most blocks that a sequence of so many tokens with KV holds while it generates.

        A window begins and ends inside of blocks, and the step that begins a block is planned before the result of the
        step that lets one go.
        """
        num_blocks = -(-num_tokens // block_size)
        return num_blocks if self.window is None else min(num_blocks, -(-(self.window - 1) // block_size) + 2)


WHOLE: Final = (KVCacheGroup(),)
"""One group that sees everything: all layers share their blocks."""


def groups_of(windows: Sequence[int]) -> tuple[KVCacheGroup, ...]:
    """Groups as they are written down: their windows, 0 for none; without any, there is one group without a window."""
    return tuple(KVCacheGroup(window or None) for window in windows) or WHOLE


def blocks_for(groups: Sequence[KVCacheGroup], num_tokens: int, block_size: int) -> int:
    """Blocks of all groups together for the KV of so many tokens of one sequence."""
    return sum(group.num_blocks(num_tokens, block_size) for group in groups)


def tokens_in(groups: Sequence[KVCacheGroup], num_blocks: int, block_size: int, most: int) -> int:
    """Longest sequence whose KV so many blocks hold, in tokens, at most `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if blocks_for(groups, middle, block_size) <= num_blocks:
            low = middle
        else:
            high = middle - 1
    return low
