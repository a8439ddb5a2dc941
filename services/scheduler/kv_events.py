"""Changes of all executors' prefix caches, for whoever follows them. Knows no protocol."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from quire.engine.api.errors import Overloaded
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.pool_change import PoolChange
from quire.engine.resources.publication import Entry
from quire.engine.step_observer import StepObserver

MAX_SUBSCRIBERS: Final = 64
# Blocks stored or removed that a subscriber has not read yet; snapshots do not count, of which each pool has one.
MAX_PENDING_BLOCKS: Final = 65_536
_RETRY_SECONDS: Final = 1.0
_depth: Final = itemgetter(4)


class Subscription:
    """What one subscriber has not read yet."""

    def __init__(self) -> None:
        self._changes: deque[PoolChange] = deque()
        self._num_pending = 0
        self._is_behind = False
        self._arrived = asyncio.Event()

    async def next(self) -> PoolChange:
        """The oldest change that was not read; waits until there is one.

        Raises:
            Overloaded: too much came unread; the subscription is of no use any more.
        """
        await self._arrived.wait()
        if self._is_behind:
            raise Overloaded(
                f"the subscriber is more than {MAX_PENDING_BLOCKS} blocks behind; subscribe again", _RETRY_SECONDS
            )
        change = self._changes.popleft()
        self._num_pending -= _weight(change)
        if not self._changes:
            self._arrived.clear()
        return change

    def clear(self) -> None:
        """Forgets what was not read."""
        self._changes.clear()
        self._num_pending = 0
        self._is_behind = False
        self._arrived.clear()

    def push(self, change: PoolChange) -> None:
        """Queues a change, or drops all if the subscriber is too far behind."""
        if self._is_behind:
            return
        self._changes.append(change)
        self._num_pending += _weight(change)
        self._arrived.set()
        if self._num_pending > MAX_PENDING_BLOCKS:
            self._is_behind = True
            self._changes.clear()


@dataclass(slots=True)
class _Pool:
    """A pool that can be followed.

    Attributes:
        mirror: published blocks by number, as the scheduler has them.
        is_committed: whether the ledger has all of the mirror.
        view: published blocks that subscribers know; None: they wait for the next commit to be told.
    """

    name: str
    block_size: int
    mirror: Mapping[int, Entry]
    is_committed: Callable[[], bool]
    view: dict[int, Entry] | None = None

    def snapshot(self) -> PoolChange:
        """Everything, parents first."""
        stored = sorted((self.view or {}).values(), key=_depth)
        return PoolChange(self.name, self.block_size, is_cleared=True, stored=stored)

    def change(self, transaction: LedgerTransaction) -> PoolChange | None:
        """Brings the view up to the ledger; None: no block was published or evicted."""
        if self.view is None:
            self.view = dict(self.mirror)
            return self.snapshot()
        stored = transaction.publish + transaction.described
        self.view.update((entry[0], entry) for entry in stored)
        removed = [self.view.pop(block) for block in transaction.evict]
        if not stored and not removed:
            return None
        return PoolChange(self.name, self.block_size, stored=stored, removed=removed)


class KVEvents:
    """Tells subscribers what the pools hold, and then every change that the ledger has.

    A subscriber joins in the middle of a commit at times. What the mirror is ahead of the ledger is not told then: it
    waits for the commit. While nobody subscribes, nothing is kept.
    """

    def __init__(self) -> None:
        self._pools: dict[str, _Pool] = {}
        # Void pools that subscribers were told of, with their clearing: whoever begins again may not have read it.
        self._void: dict[str, PoolChange] = {}
        self._subscriptions: set[Subscription] = set()

    def open(self, name: str, block_size: int, mirror: Mapping[int, Entry], is_committed: Callable[[], bool]) -> None:
        """A pool has come; its mirror and its ledger agree."""
        self._pools[name] = pool = _Pool(name, block_size, mirror, is_committed)
        self._void.pop(name, None)
        if self._subscriptions:
            self._begin(pool)

    def commit(self, name: str, transaction: LedgerTransaction) -> None:
        """The ledger has a transaction."""
        if not self._subscriptions or name not in self._pools:
            return
        change = self._pools[name].change(transaction)
        if change is not None:
            self._push(change)

    def close(self, name: str) -> None:
        """The pool is void; harmless if it has not come."""
        pool = self._pools.pop(name, None)
        if pool is not None and pool.view is not None:
            self._void[name] = PoolChange(name, pool.block_size, is_cleared=True)
            self._push(self._void[name])

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """A subscription while the context is open.

        Raises:
            Overloaded: there are too many.
        """
        if len(self._subscriptions) >= MAX_SUBSCRIBERS:
            raise Overloaded(f"{MAX_SUBSCRIBERS} subscribe already, which is the most", _RETRY_SECONDS)
        subscription = Subscription()
        self._push_snapshots(subscription)
        self._subscriptions.add(subscription)
        for pool in self._pools.values():
            if pool.view is None and pool.is_committed():
                self._begin(pool)
        try:
            yield subscription
        finally:
            self._subscriptions.remove(subscription)
            if not self._subscriptions:
                self._void.clear()
                for pool in self._pools.values():
                    pool.view = None

    def restart(self, subscription: Subscription) -> None:
        """Begins again with what the pools hold, instead of what was not read."""
        subscription.clear()
        for change in self._void.values():
            subscription.push(change)
        self._push_snapshots(subscription)

    def _push_snapshots(self, subscription: Subscription) -> None:
        for pool in self._pools.values():
            if pool.view is not None:
                subscription.push(pool.snapshot())

    def _begin(self, pool: _Pool) -> None:
        """Nobody knows the pool yet."""
        pool.view = dict(pool.mirror)
        self._push(pool.snapshot())

    def _push(self, change: PoolChange) -> None:
        for subscription in self._subscriptions:
            subscription.push(change)


class PoolCommits(StepObserver):
    """Passes one pool's transactions on."""

    def __init__(self, name: str, events: KVEvents) -> None:
        self._name = name
        self._events = events

    def committed(self, transaction: LedgerTransaction) -> None:
        self._events.commit(self._name, transaction)


def _weight(change: PoolChange) -> int:
    return 0 if change.is_cleared else change.num_blocks
