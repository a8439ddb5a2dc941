"""How long each block of a sequence is kept: token ranges with priorities, mapped onto blocks."""

from collections.abc import Sequence

from quire.engine.api.options import DEFAULT_RETENTION_PRIORITY, Retention
from quire.engine.resources.block_pool import KEEP, Keep


def block_retention(ranges: Sequence[Retention], num_blocks: int, block_size: int, now: int) -> list[Keep]:
    """Priority and expiry of each block of a sequence when it is released.

    A block has the highest priority of the ranges that it overlaps. It has at least the priority of every later block
    of the sequence, since these cannot be found without it.

    Args:
        now: unix time in milliseconds.
    """
    if not ranges:
        return [KEEP] * num_blocks
    found: list[Keep] = []
    behind = Keep(priority=0)
    for block in reversed(range(num_blocks)):
        own = _strongest(ranges, block * block_size, (block + 1) * block_size, now)
        behind = max(own, behind, key=_strength)
        found.append(behind)
    found.reverse()
    return found


def _strongest(ranges: Sequence[Retention], start: int, end: int, now: int) -> Keep:
    overlapping = [
        Keep(each.priority, 0 if each.duration_ms is None else now + each.duration_ms)
        for each in ranges
        if each.start < end and (each.end is None or each.end > start)
    ]
    return max(overlapping, key=_strength, default=Keep(DEFAULT_RETENTION_PRIORITY))


def _strength(keep: Keep) -> tuple[int, float]:
    return keep.priority, keep.expires or float("inf")
