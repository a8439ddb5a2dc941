"""The ledger in Redis: one Lua transaction per step.

Keys of a pool share one hash tag, so that a cluster keeps them on one node:

    quire:{pool}:meta     hash   identity, epoch, num_blocks, step, step_epoch (who wrote the step)
    quire:{pool}:blocks   hash   block that is not free → its holders and its hash
    quire:{pool}:index    hash   hash → published block
    quire:{pool}:cached   zset   cached block, scored by rank (lowest is evicted first)
    quire:{pool}:expires  hash   cached block → when its priority is void, if ever
    quire:pools           set    names of the pools

The scheduler that may write them is elected in lease.py.
"""

from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster

from quire.engine.api.errors import LedgerConflict, LedgerError, LedgerLost, StaleEpoch
from quire.engine.api.options import DEFAULT_RETENTION_PRIORITY
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.connection import close, connect, reaching
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.records import decode, encode, encode_identity, keys
from quire.engine.resources.ledger.script import Script
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.rank import MAX_TICK, make_rank

_POOLS = "quire:pools"


class RedisLedger(KVLedger):
    """Speaks to one Redis; several schedulers may, the highest epoch of a pool wins.

    Args:
        redis: a client without `decode_responses`; closed with the ledger.
    """

    def __init__(self, redis: Redis | RedisCluster) -> None:
        self.redis = redis
        self._open, self._commit, self._seed, self._snapshot, self._remove = (
            Script("prelude.lua", f"{name}.lua") for name in ("open", "commit", "seed", "snapshot", "remove")
        )

    @classmethod
    def connect(cls, url: str, timeout: float = 5.0, password_file: Path | None = None) -> "RedisLedger":
        """A ledger at a URL, see connection.py.

        Args:
            timeout: seconds that connecting and each call may take.
            password_file: has the password of the URL's user; None: the URL has it, if there is one.

        Raises:
            ValueError: the URL is malformed; the message does not repeat it.
        """
        return cls(connect(url, timeout, password_file))

    async def open(self, pool: PoolIdentity, epoch: int) -> PoolState:
        ranks = (MAX_TICK + 1, make_rank(DEFAULT_RETENTION_PRIORITY, 0))
        parts = await self._run(self._open, pool, epoch, pool.num_blocks, *ranks)
        await self._register(pool.name)
        return decode(pool.name, parts)[1]

    async def commit(self, pool: PoolIdentity, epoch: int, tx: LedgerTransaction) -> None:
        args: list[str | int | bytes] = [tx.step]
        args += [len(tx.publish), len(tx.release), len(tx.evict), len(tx.share), len(tx.acquire)]
        for block, name, *_ in tx.publish:
            args += block, name
        for release in tx.release:
            args.extend(release)
        args.extend(tx.evict)
        for hold in (*tx.share, *tx.acquire):
            args.extend(hold)
        await self._run(self._commit, pool, epoch, *args)

    async def seed(self, pool: PoolIdentity, epoch: int, state: PoolState) -> None:
        await self._run(self._seed, pool, epoch, state.num_blocks, state.step, *encode(state))
        await self._register(pool.name)

    async def snapshot(self, name: str) -> tuple[PoolIdentity, PoolState] | None:
        with reaching():
            _, *parts = await self._snapshot(self.redis, keys(name))
        return decode(name, parts) if parts[0] else None

    async def pools(self) -> list[str]:
        with reaching():
            names = await self.redis.smembers(_POOLS)
        return sorted(name.decode() if isinstance(name, bytes) else name for name in names)

    async def remove(self, pool: PoolIdentity, epoch: int) -> None:
        # In this order no pool that someone opens meanwhile is left out of the set.
        with reaching():
            await self.redis.srem(_POOLS, pool.name)
        try:
            await self._run(self._remove, pool, epoch)
        except StaleEpoch:
            await self._register(pool.name)
            raise
        except LedgerLost:
            await self._register(pool.name)

    async def close(self) -> None:
        await close(self.redis)

    async def _register(self, name: str) -> None:
        with reaching():
            await self.redis.sadd(_POOLS, name)

    async def _run(self, script: Script, pool: PoolIdentity, epoch: int, *args: str | int | bytes) -> list[Any]:
        """What the script answers behind its "OK"."""
        with reaching():
            reply = await script(self.redis, keys(pool.name), encode_identity(pool), epoch, *args)
        match reply:
            case [b"OK", *rest]:
                return rest
            case [b"STALE", bytes(owner)]:
                raise StaleEpoch(f"pool {pool.name}: opened by epoch {owner.decode()}, ours is {epoch}", int(owner))
            case [b"LOST", bytes(reason)]:
                raise LedgerLost(f"pool {pool.name}: {reason.decode()}")
            case [b"CONFLICT", bytes(reason)]:
                raise LedgerConflict(f"pool {pool.name}: {reason.decode()}")
        raise LedgerError(f"pool {pool.name}: unexpected reply {reply!r}")
