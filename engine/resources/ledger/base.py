"""The ledger's contract; one conformance suite runs against every implementation."""

from abc import ABC, abstractmethod

from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.transaction import LedgerTransaction


class KVLedger(ABC):
    """Shared, durable books of KV blocks. A scheduler proposes, the ledger checks and applies or refuses.

    Every method raises `LedgerUnreachable` when the ledger does not answer.
    """

    @abstractmethod
    async def open(self, pool: PoolIdentity, epoch: int) -> PoolState:
        """Takes the pool over and returns it with every hold dropped: the former scheduler's are void.

        A pool of another identity under this name is emptied first.

        Raises:
            StaleEpoch: a higher epoch opened it.
        """

    @abstractmethod
    async def commit(self, pool: PoolIdentity, epoch: int, tx: LedgerTransaction) -> None:
        """Applies the transaction, all or nothing.

        Raises:
            StaleEpoch: a higher epoch opened the pool.
            LedgerLost: the pool is gone, or is of another identity or a lower epoch.
            LedgerConflict: the transaction contradicts the ledger.
        """

    @abstractmethod
    async def seed(self, pool: PoolIdentity, epoch: int, state: PoolState) -> None:
        """Replaces whatever the ledger has of the pool by `state`.

        Raises:
            StaleEpoch: a higher epoch opened it.
        """

    @abstractmethod
    async def snapshot(self, name: str) -> tuple[PoolIdentity, PoolState] | None:
        """The pool of that name as it is now, in one consistent view; None if there is none."""

    @abstractmethod
    async def pools(self) -> list[str]:
        """Names of all pools."""

    @abstractmethod
    async def remove(self, pool: PoolIdentity, epoch: int) -> None:
        """Forgets the pool, if it is still of this identity.

        Raises:
            StaleEpoch: a higher epoch opened it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Closes connections; the pools stay."""
