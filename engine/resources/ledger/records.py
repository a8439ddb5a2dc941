"""How a pool is written in Redis; prelude.lua shows a block's record."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import lru_cache

from quire.engine.api.errors import LedgerError
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState

PARTS = ("meta", "blocks", "index", "cached", "expires")
_MANY_POOLS = 1024


@lru_cache(_MANY_POOLS)
def keys(name: str) -> tuple[str, ...]:
    """The pool's keys; their hash tag keeps them on one node of a cluster."""
    return tuple(f"quire:{{{name}}}:{part}" for part in PARTS)


@lru_cache(_MANY_POOLS)
def encode_identity(pool: PoolIdentity) -> str:
    return json.dumps(asdict(pool), sort_keys=True)


def encode(state: PoolState) -> list[bytes]:
    """Every key but meta, as seed.lua takes it."""
    holders: dict[int, list[str]] = {}
    for holder, blocks in state.holds.items():
        for block in blocks:
            holders.setdefault(block, []).append(holder)
    records = (
        (block, ",".join(holders.get(block, ())).encode() + b"|" + state.hashes.get(block, b""))
        for block in holders.keys() | state.hashes.keys()
    )
    ranks = ((rank, block) for block, rank in state.cached.items())
    return [_pack(records), _pack(state.index.items()), _pack(ranks), _pack(state.expires.items())]


def decode(name: str, parts: Sequence[Sequence[bytes]]) -> tuple[PoolIdentity, PoolState]:
    """What snapshot.lua returns, each key a flat list of fields and values.

    Raises:
        LedgerError: this is not what the ledger writes.
    """
    try:
        tables = [dict(zip(part[::2], part[1::2], strict=True)) for part in parts]
        meta, blocks, index, cached, expires = tables
        for marked in (blocks, index):
            marked.pop(b"", None)
        state = PoolState(
            num_blocks=int(meta[b"num_blocks"]),
            index={key: int(block) for key, block in index.items()},
            cached={int(block): int(rank) for block, rank in cached.items()},
            expires={int(block): int(time) for block, time in expires.items()},
            step=int(meta.get(b"step", 0)),
            step_epoch=int(meta.get(b"step_epoch", 0)),
        )
        for block, record in blocks.items():
            _decode_record(state, int(block), record)
        identity = json.loads(meta[b"identity"])
        return PoolIdentity(**identity | {"windows": tuple(identity.get("windows", ()))}), state
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"pool {name}: cannot be read: {error!r}") from error


def _decode_record(state: PoolState, block: int, record: bytes) -> None:
    holders, _, name = record.partition(b"|")
    if holders:
        names = holders.decode().split(",")
        state.refs[block] = len(names)
        for holder in names:
            state.holds.setdefault(holder, {})[block] = None
    # An empty record is neither: the audit finds it as a block published without a hash.
    if name or not holders:
        state.hashes[block] = name


def _pack(pairs: Iterable[tuple[int | bytes, int | bytes]]) -> bytes:
    items = (item if isinstance(item, bytes) else b"%d" % item for pair in pairs for item in pair)
    return b"".join(len(item).to_bytes(4, "big") + item for item in items)
