"""Proof that a pool's books are sound."""

from quire.engine.resources.ledger.pool_state import PoolState


def audit(state: PoolState) -> list[str]:
    """Lists what is wrong in a pool, one sentence per block at fault; empty if every invariant holds.

    Every block is exactly one of free, cached and held; holders and reference counts agree; only published
    blocks are shared; hashes and index are inverse to each other; only cached blocks have an expiry.
    """
    faults = []
    counts: dict[int, int] = {}
    for blocks in state.holds.values():
        for block in blocks:
            counts[block] = counts.get(block, 0) + 1
    for block in sorted({*counts, *state.refs, *state.hashes, *state.cached, *state.expires}):
        refs, holders = state.refs.get(block, 0), counts.get(block, 0)
        if not 0 <= block < state.num_blocks:
            faults.append(f"block {block}: not in the pool of {state.num_blocks}")
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
