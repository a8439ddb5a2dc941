"""The longest prefix that every cache group has."""

from collections.abc import Callable, Sequence

from quire.engine.api.kv_cache_group import KVCacheGroup
from quire.engine.block_table import GONE
from quire.engine.resources.prefix import in_group

Find = Callable[[bytes], int | None]


def longest_hit(groups: Sequence[KVCacheGroup], names: Sequence[bytes], block_size: int, find: Find) -> list[list[int]]:
    """Blocks of the longest prefix with which a sequence can go on: a table for each group, all equally long.

        full      [4][7][5][8]          every block of the prefix
        sliding    ·  · [6][2]          what the position behind the prefix sees

    Args:
        names: the chain's hash of each block.
        find: the block of a name, if it is cached.
    """
    num_blocks = len(names)
    while True:
        tables = [_table(group, index, names, num_blocks, block_size, find) for index, group in enumerate(groups)]
        shortest = min(map(len, tables))
        if shortest == max(map(len, tables)):
            return tables
        num_blocks = shortest


def _table(
    group: KVCacheGroup, index: int, names: Sequence[bytes], num_blocks: int, block_size: int, find: Find
) -> list[int]:
    """The longest prefix of at most so many blocks that one group has."""
    if group.window is None:
        return _run(index, names, num_blocks, find)
    end, found = num_blocks, list[int]()
    position = end - 1
    first = group.first_seen(end * block_size, block_size)
    while position >= first:
        block = find(in_group(names[position], index))
        if block is not None:
            found.append(block)
        else:
            end, found = position, []
            first = group.first_seen(end * block_size, block_size)
        position -= 1
    return [GONE] * first + found[::-1]


def _run(index: int, names: Sequence[bytes], num_blocks: int, find: Find) -> list[int]:
    found: list[int] = []
    for name in names[:num_blocks]:
        block = find(in_group(name, index))
        if block is None:
            break
        found.append(block)
    return found
