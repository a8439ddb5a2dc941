"""Proof that a pool's books are sound."""

from quire.engine.resources.holder import split_holder
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.resources.prefix import group_of


def audit(state: PoolState, num_groups: int = 1) -> list[str]:
    """Lists what is wrong in a pool, one sentence per block at fault; empty if every invariant holds.

    Every block is exactly one of free, cached and held; holders and reference counts agree; only published
    blocks are shared; hashes and index are inverse to each other; only cached blocks have an expiry; holders and hash
    of a block are of one cache group, of which there are `num_groups`.
    """
    faults = []
    counts: dict[int, int] = {}
    groups: dict[int, int] = {}
    for holder, blocks in state.holds.items():
        _, group = split_holder(holder)
        for block in blocks:
            counts[block] = counts.get(block, 0) + 1
            if groups.setdefault(block, group) != group:
                faults.append(f"block {block}: held for cache groups {groups[block]} and {group}")
    for block, name in state.hashes.items():
        group = group_of(name)
        if groups.setdefault(block, group) != group:
            faults.append(f"block {block}: held for cache group {groups[block]}, published for {group}")
    for block in sorted({*counts, *state.refs, *state.hashes, *state.cached, *state.expires}):
        refs, holders = state.refs.get(block, 0), counts.get(block, 0)
        if not 0 <= block < state.num_blocks:
            faults.append(f"block {block}: not in the pool of {state.num_blocks}")
        if not groups.get(block, 0) < num_groups:
            faults.append(f"block {block}: of cache group {groups[block]}, and there are {num_groups}")
        if refs != holders:
            faults.append(f"block {block}: {refs} references but {holders} holders")
        if holders > 1 and block not in state.hashes:
            faults.append(f"block {block}: {holders} holders of an unpublished block")
        if block in state.cached and (holders or block not in state.hashes):
            faults.append(f"block {block}: cached but {'held' if holders else 'not published'}")
        if block in state.hashes and not holders and block not in state.cached:
            faults.append(f"block {block}: published, held by nobody and not cached")
        if block in state.expires and block not in state.cached:
            faults.append(f"block {block}: its priority ends at {state.expires[block]} but it is not cached")
        if block in state.hashes and state.index.get(state.hashes[block]) != block:
            faults.append(f"block {block}: its hash leads to block {state.index.get(state.hashes[block])}")
    for name, block in state.index.items():
        if state.hashes.get(block) != name:
            faults.append(f"block {block}: indexed under a hash that it does not carry")
    return faults
