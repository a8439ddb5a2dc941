"""The ledger in this process's memory, for `LLM` and for tests; gone with the process."""

from copy import deepcopy
from dataclasses import dataclass, replace

from quire.engine.api.errors import LedgerLost, StaleEpoch
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.transaction import LedgerTransaction


@dataclass(slots=True)
class _Pool:
    identity: PoolIdentity
    epoch: int
    state: PoolState


class MemoryLedger(KVLedger):
    """Pools by name; states go in and out as copies, as they would over a network."""

    def __init__(self) -> None:
        self._pools: dict[str, _Pool] = {}

    async def open(self, pool: PoolIdentity, epoch: int) -> PoolState:
        known = self._own(pool, epoch)
        if known is None:
            known = self._pools[pool.name] = _Pool(pool, epoch, PoolState(pool.num_blocks))
        known.epoch = epoch
        known.state.release_all()
        return deepcopy(known.state)

    async def commit(self, pool: PoolIdentity, epoch: int, tx: LedgerTransaction) -> None:
        known = self._own(pool, epoch)
        if known is None or known.epoch != epoch:
            raise LedgerLost(f"pool {pool.name}: not opened by epoch {epoch}")
        known.state.apply(tx)
        if tx.step:
            known.state.step_epoch = epoch

    async def seed(self, pool: PoolIdentity, epoch: int, state: PoolState) -> None:
        self._own(pool, epoch)
        self._pools[pool.name] = _Pool(pool, epoch, replace(deepcopy(state), step_epoch=epoch))

    async def snapshot(self, name: str) -> tuple[PoolIdentity, PoolState] | None:
        known = self._pools.get(name)
        return None if known is None else (known.identity, deepcopy(known.state))

    async def pools(self) -> list[str]:
        return sorted(self._pools)

    async def remove(self, pool: PoolIdentity, epoch: int) -> None:
        if self._own(pool, epoch) is not None:
            del self._pools[pool.name]

    async def close(self) -> None:
        pass

    def _own(self, pool: PoolIdentity, epoch: int) -> _Pool | None:
        """The pool if it is of this identity; a higher epoch's is not ours to touch."""
        known = self._pools.get(pool.name)
        if known is not None and known.epoch > epoch:
            raise StaleEpoch(f"pool {pool.name}: opened by epoch {known.epoch}, ours is {epoch}", known.epoch)
        return known if known is not None and known.identity == pool else None
