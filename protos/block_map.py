"""A pool's block map as `SchedulerService.Watch` sends it: the state of every block, and runs of equal states.

state   ┌───────── owner ─────────┬─ kind ─┐      int32; the owner is a request's number in its pool
        31                       3 2       0
run     first block, number of blocks, state      packed int32 triples
"""

from enum import IntEnum
from typing import Final

import numpy as np

from quire.engine.api.errors import InvalidRequest
from quire.engine.arrays import Int32Array

# Of a pool that is shown: a message has room for the runs of so many.
MAX_BLOCKS: Final = 1 << 22
_KIND_BITS: Final = 3
_FIELDS: Final = 3


class BlockKind(IntEnum):
    """What a block is; from HELD on it has a holder."""

    FREE = 0
    CACHED = 1
    HELD = 2
    REUSED = 3
    """Held, and its content was found in the cache."""
    SHARED = 4
    """Held by several, of which the latest is the owner."""


def block_state(owner: int, kind: BlockKind) -> int:
    """One state; owner 0: unknown."""
    return owner << _KIND_BITS | kind


def kinds_of(states: Int32Array) -> Int32Array:
    """The kind of each state, int32 of the same shape."""
    return states & ((1 << _KIND_BITS) - 1)


def split_state(state: int) -> tuple[int, BlockKind]:
    """Owner and kind of one state."""
    return state >> _KIND_BITS, BlockKind(state & ((1 << _KIND_BITS) - 1))


def pack_runs(blocks: Int32Array, states: Int32Array) -> bytes:
    """Runs that say these blocks' states.

    Args:
        blocks: ascending, int32, shape (n,).
        states: theirs, int32, shape (n,).
    """
    if not len(blocks):
        return b""
    is_begin = np.ones(len(blocks), bool)
    is_begin[1:] = (np.diff(blocks) != 1) | (np.diff(states) != 0)
    begins = np.flatnonzero(is_begin)
    counts = np.diff(begins, append=len(blocks))
    return np.stack([blocks[begins], counts, states[begins]], axis=1).astype("<i4").tobytes()


def pack_all(states: Int32Array) -> bytes:
    """Runs that say every block's state."""
    return pack_runs(np.arange(len(states), dtype=np.int32), states)


def new_map(num_blocks: int) -> Int32Array:
    """The states of a pool of which nothing is known; raises `InvalidRequest` if it is too large to be shown."""
    if num_blocks > MAX_BLOCKS:
        raise InvalidRequest("num_blocks", num_blocks, f"must be at most {MAX_BLOCKS}")
    return np.zeros(num_blocks, np.int32)


def apply_runs(states: Int32Array, packed: bytes) -> None:
    """Takes runs over into a map.

    Raises:
        InvalidRequest: they are not whole, or name blocks that there are not.
    """
    if len(packed) % (_FIELDS * 4):
        raise InvalidRequest("block_runs", len(packed), "must be triples of int32")
    runs = np.frombuffer(packed, "<i4").reshape(-1, _FIELDS).astype(np.int64)
    firsts, counts = runs[:, 0], runs[:, 1]
    if np.any((firsts < 0) | (counts < 1) | (firsts + counts > len(states))) or counts.sum() > len(states):
        raise InvalidRequest("block_runs", len(runs), f"must be runs of blocks below {len(states)}, each once")
    # Position in all runs, less that of its run's begin.
    behind = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    states[np.repeat(firsts, counts) + behind] = np.repeat(runs[:, 2], counts)
