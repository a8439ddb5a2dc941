"""The order in which cached blocks are evicted: one number per block, the lowest goes first.

    rank = priority << 40 | tick          priority 0 … 100, tick: the pool's count of releases

As a double, which is what Redis sorts by, it is exact for 2^40 releases at any priority.
"""

TICK_BITS = 40
MAX_TICK = (1 << TICK_BITS) - 1


def make_rank(priority: int, tick: int) -> int:
    """Lower priority first; within one priority, released earlier first."""
    return priority << TICK_BITS | tick


def tick_of(rank: int) -> int:
    """When the block was released."""
    return rank & MAX_TICK
