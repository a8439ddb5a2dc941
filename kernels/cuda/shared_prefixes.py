"""Which rows of a batch begin with the same blocks, so that their attention to these may be computed once for all.

Rows are grouped by the block in which they reach `LEAST_TOKENS`. A group takes the prefix length and the rows that save
most:

    row 0   7 4 9 2 │ 5        lengths in common with row 0: 4 4 3
    row 1   7 4 9 2 │ 8 1      two rows, 4 blocks: spares 4      three rows, 3 blocks: spares 6
    row 2   7 4 9 6 │ 3
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Shorter prefixes are not worth a look.
LEAST_TOKENS: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrefix:
    """Rows whose first `num_blocks` blocks are the same ones; none of them is its row's last.

    Attributes:
        rows: int32 [at least 2], ascending.
    """

    rows: NDArray[np.int32]
    num_blocks: int


def shared_prefixes(
    indptr: NDArray[np.int32], indices: NDArray[np.int32], block_size: int, least_spared: int
) -> list[SharedPrefix]:
    """
    Args:
        indptr, indices: blocks of each row, as in `PagedBatch`.
        least_spared: blocks that need not be read again, of a group that is to count.
    """
    column = -(-LEAST_TOKENS // block_size) - 1
    # The last block is the row's own: it is being written.
    num_full = np.diff(indptr) - 1
    longer = np.flatnonzero(num_full > column)
    at_column = indices[indptr[longer] + column]
    order = np.argsort(at_column, kind="stable")
    ends = np.flatnonzero(np.diff(at_column[order])) + 1
    if len(ends) + 1 >= len(order):
        return []
    groups = (np.sort(longer[group]) for group in np.split(order, ends) if len(group) > 1)
    found = (_longest(group, indptr, indices, num_full) for group in groups)
    return [each for each in found if (len(each.rows) - 1) * each.num_blocks >= max(1, least_spared)]


def _longest(
    rows: NDArray[np.int64], indptr: NDArray[np.int32], indices: NDArray[np.int32], num_full: NDArray[np.int32]
) -> SharedPrefix:
    width = int(num_full[rows[0]])
    columns = np.arange(width)
    inside = columns < num_full[rows, None]
    place = np.where(inside, indptr[rows, None] + columns, 0)
    same = inside & (indices[place] == indices[place[0]])
    lengths = np.where(same.all(axis=1), width, same.argmin(axis=1))
    order = np.argsort(-lengths, kind="stable")
    last = int(np.argmax(np.arange(len(rows)) * lengths[order]))
    return SharedPrefix(np.sort(rows[order[: last + 1]]).astype(np.int32), int(lengths[order[last]]))
