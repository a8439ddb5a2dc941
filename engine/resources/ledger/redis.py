"""The ledger in Redis: one Lua transaction per step.

Keys of a pool share one hash tag, so that a cluster keeps them on one node:

    quire:{pool}:meta    hash   identity, epoch, num_blocks
    quire:{pool}:refs    hash   held block → number of holders
    quire:{pool}:hashes  hash   published block → hash
    quire:{pool}:index   hash   hash → published block
    quire:{pool}:holds   hash   holder/block → 1
    quire:{pool}:cached  zset   cached block, scored by rank (lowest is evicted first)
    quire:pools          set    names of the pools
    quire:epoch          string the last epoch given out
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, WatchError

from quire.engine.errors import LedgerConflict, LedgerError, LedgerLost, LedgerUnreachable, StaleEpoch
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.transaction import LedgerTransaction

_POOLS, _EPOCH = "quire:pools", "quire:epoch"
_PARTS = ("meta", "refs", "hashes", "index", "holds", "cached")


class RedisLedger(KVLedger):
    """Speaks to one Redis; several schedulers may, the highest epoch of a pool wins.

    Args:
        redis: a client without `decode_responses`; closed with the ledger.
    """

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._commit = redis.register_script(_script("commit.lua"))
        self._open = redis.register_script(_script("open.lua"))

    @classmethod
    def connect(cls, url: str, timeout: float = 5.0) -> "RedisLedger":
        """A ledger at a `redis://` or `rediss://` URL; `timeout` in seconds bounds connecting and each call."""
        return cls(Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout))

    async def next_epoch(self) -> int:
        async with self._reaching():
            return int(await self.redis.incr(_EPOCH))

    async def open(self, pool: PoolIdentity, epoch: int) -> PoolState:
        async with self._reaching():
            await self.redis.sadd(_POOLS, pool.name)
            reply = await self._open(keys=_keys(pool.name), args=[_encode(pool), epoch, pool.num_blocks])
        _raise_unless_ok(pool, epoch, reply)
        found = await self.snapshot(pool.name)
        if found is None:
            raise LedgerLost(f"pool {pool.name}: emptied while it was being opened")
        return found[1]

    async def commit(self, pool: PoolIdentity, epoch: int, tx: LedgerTransaction) -> None:
        args: list[str | int | bytes] = [_encode(pool), epoch]
        args += [len(tx.publish), len(tx.release), len(tx.evict), len(tx.share), len(tx.acquire)]
        for item in (*tx.publish, *tx.release):
            args.extend(item)
        args.extend(tx.evict)
        for hold in (*tx.share, *tx.acquire):
            args.extend(hold)
        async with self._reaching():
            reply = await self._commit(keys=_keys(pool.name), args=args)
        _raise_unless_ok(pool, epoch, reply)

    async def seed(self, pool: PoolIdentity, epoch: int, state: PoolState) -> None:
        meta, *parts, cached = _keys(pool.name)
        holds = {f"{holder}/{block}": "1" for holder, blocks in state.holds.items() for block in blocks}
        async with self._reaching(), self.redis.pipeline() as pipe:
            while True:
                try:
                    await pipe.watch(meta)
                    owner = int(await pipe.hget(meta, "epoch") or 0)
                    if owner > epoch:
                        raise StaleEpoch(f"pool {pool.name}: opened by epoch {owner}, ours is {epoch}")
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.delete(meta, *parts, cached)
                    pipe.hset(meta, mapping=_meta(pool, epoch))
                    tables: list[Mapping[Any, Any]] = [state.refs, state.hashes, state.index, holds]
                    for key, table in zip(parts, tables, strict=True):
                        if table:
                            pipe.hset(key, items=[item for pair in table.items() for item in pair])
                    if state.cached:
                        pipe.zadd(cached, {str(block): rank for block, rank in state.cached.items()})
                    pipe.sadd(_POOLS, pool.name)
                    await pipe.execute()
                    return
                except WatchError:
                    continue

    async def snapshot(self, name: str) -> tuple[PoolIdentity, PoolState] | None:
        meta, refs, hashes, index, holds, cached = _keys(name)
        async with self._reaching(), self.redis.pipeline() as pipe:
            for key in (meta, refs, hashes, index, holds):
                pipe.hgetall(key)
            pipe.zrange(cached, 0, -1, withscores=True)
            found = await pipe.execute()
        if b"identity" not in found[0]:
            return None
        return PoolIdentity(**json.loads(found[0][b"identity"])), _decode(*found)

    async def pools(self) -> list[str]:
        async with self._reaching():
            names = await self.redis.smembers(_POOLS)
        return sorted(name.decode() if isinstance(name, bytes) else name for name in names)

    async def remove(self, pool: PoolIdentity, epoch: int) -> None:
        await self.seed(pool, epoch, PoolState(pool.num_blocks))
        async with self._reaching():
            await self.redis.delete(*_keys(pool.name))
            await self.redis.srem(_POOLS, pool.name)

    async def close(self) -> None:
        await self.redis.aclose()

    @asynccontextmanager
    async def _reaching(self) -> AsyncIterator[None]:
        """Redis's own faults, as the ledger's."""
        try:
            yield
        except (RedisError, OSError) as error:
            raise LedgerUnreachable(f"Redis: {error}") from error


def _script(name: str) -> str:
    return files("quire.engine.resources.ledger").joinpath(name).read_text()


def _keys(name: str) -> list[str]:
    return [f"quire:{{{name}}}:{part}" for part in _PARTS]


def _encode(pool: PoolIdentity) -> str:
    return json.dumps(asdict(pool), sort_keys=True)


def _meta(pool: PoolIdentity, epoch: int) -> dict[Any, Any]:
    return {"identity": _encode(pool), "epoch": epoch, "num_blocks": pool.num_blocks}


def _decode(
    meta: dict[bytes, bytes],
    refs: dict[bytes, bytes],
    hashes: dict[bytes, bytes],
    index: dict[bytes, bytes],
    holds: dict[bytes, bytes],
    cached: list[tuple[bytes, float]],
) -> PoolState:
    state = PoolState(
        num_blocks=int(meta[b"num_blocks"]),
        refs={int(block): int(count) for block, count in refs.items()},
        hashes={int(block): name for block, name in hashes.items()},
        index={name: int(block) for name, block in index.items()},
        cached={int(block): int(rank) for block, rank in cached},
    )
    for hold in holds:
        holder, _, block = hold.decode().rpartition("/")
        state.holds.setdefault(holder, {})[int(block)] = None
    return state


def _raise_unless_ok(pool: PoolIdentity, epoch: int, reply: list[bytes]) -> None:
    match reply:
        case [b"OK"]:
            return
        case [b"STALE", owner]:
            raise StaleEpoch(f"pool {pool.name}: opened by epoch {owner.decode()}, ours is {epoch}")
        case [b"LOST", reason]:
            raise LedgerLost(f"pool {pool.name}: {reason.decode()}")
        case [b"CONFLICT", reason]:
            raise LedgerConflict(f"pool {pool.name}: {reason.decode()}")
    raise LedgerError(f"pool {pool.name}: unexpected reply {reply!r}")
