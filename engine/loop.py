"""The main loop of one executor: schedule, commit, run, update."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from time import monotonic_ns
from typing import Any

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import LedgerError, LedgerUnreachable, RequestError, StaleEpoch
from quire.engine.preparation import Preparation
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.scheduling.step_output import StepOutput
from quire.engine.sequence import Sequence
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver

logger = logging.getLogger(__name__)

MAX_STEPS_IN_FLIGHT = 2
# A resource manager may delay a start by the clock, of which no step and no request tells.
DELAY_SECONDS = 0.02
# Between two tries to reach a ledger that is away: streams stand still as long behind its return.
_LONGEST_DELAY_SECONDS = 0.4


class StepRunner(ABC):
    """Where plans go and results come from: an executor in this process or behind a stream."""

    @abstractmethod
    async def send(self, plan: StepPlan) -> None:
        """Hands over a plan; returns before it has run.

        Raises:
            Unavailable: the executor is gone.
        """

    @abstractmethod
    async def prepare(self, preparation: Preparation) -> asyncio.Future[Any]:
        """Asks for what sequences of later plans need; returns at once with what will be the answer.

        Raises:
            Unavailable: the executor is gone.

        The answer raises `RequestError` if no sequence can have it.
        """

    @abstractmethod
    async def examine(self, name: str, path: str) -> Adapter:
        """The adapter of a folder, as the executor reads it, which could be loaded there.

        Raises:
            InvalidRequest: it could not.
            Unavailable: the executor is gone.
        """

    @abstractmethod
    async def receive(self) -> StepResult:
        """The result of the oldest plan sent.

        Raises:
            Unavailable: the executor is gone.
        """


class StepLoop:
    """Keeps one executor busy, two steps ahead of its results.

        schedule n+1 ─ commit n+1 ─ send n+1 ─ receive n ─ update n ─ schedule n+2 …
        └──────── while the executor computes n ────────┘

    Args:
        scheduler: of this executor.
        ledger, pool, epoch: where every change of blocks is committed before a plan leaves.
        runner: the executor.
        deliver: called with what each result brought.
        observers: are told of every step.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        ledger: KVLedger,
        pool: PoolIdentity,
        epoch: int,
        runner: StepRunner,
        deliver: Callable[[StepOutput], None],
        observers: Iterable[StepObserver] = (),
    ) -> None:
        self._scheduler = scheduler
        self._ledger = ledger
        self._pool = pool
        self._epoch = epoch
        self._runner = runner
        self._deliver = deliver
        self._observers = tuple(observers)
        self._work = asyncio.Event()
        self._is_draining = False
        self._is_committing = False

    @property
    def is_committed(self) -> bool:
        """Whether the ledger has every change of the mirror; if not, observers are told of the rest soon."""
        return not self._is_committing and not self._scheduler.pool.has_changes

    def wake(self) -> None:
        """Says that a request came or ended."""
        self._work.set()

    def observe(self, observer: StepObserver) -> None:
        """From now on it is told of every step."""
        self._observers = (*self._observers, observer)

    def unobserve(self, observer: StepObserver) -> None:
        """It is told no longer; harmless if it was not."""
        self._observers = tuple(each for each in self._observers if each is not observer)

    async def examine(self, name: str, path: str) -> Adapter:
        """As `StepRunner.examine`."""
        return await self._runner.examine(name, path)

    def drain(self) -> None:
        """Makes `run` return once nothing waits or runs any more."""
        self._is_draining = True
        self.wake()

    async def run(self) -> None:
        """Runs until cancelled, or until nothing is left after `drain`.

        Raises:
            Unavailable: the executor is gone.
            StaleEpoch: another scheduler owns the pool.
        """
        while True:
            self._work.clear()
            plan = await self._next()
            in_flight = self._scheduler.num_in_flight
            if in_flight == MAX_STEPS_IN_FLIGHT or (in_flight and plan is None):
                await self._receive()
            elif not in_flight:
                await self._commit()
                if self._is_draining and not self._scheduler.num_waiting and not self._scheduler.num_running:
                    return
                await self._until_work()

    async def _until_work(self) -> None:
        """Returns when a request came or ended, or when a resource manager that delays one is to be asked again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DELAY_SECONDS if self._scheduler.is_delaying else None):
                await self._work.wait()

    async def _next(self) -> StepPlan | None:
        """Plans a step, commits what it changes, and sends it off."""
        began = monotonic_ns()
        plan = self._scheduler.schedule()
        if late := self._scheduler.take_late():
            self._deliver(StepOutput(finished=late))
        scheduled = monotonic_ns()
        committed = monotonic_ns() if await self._commit() else scheduled
        if plan is not None:
            await self._runner.send(plan)
            sent = monotonic_ns()
            for observer in self._observers:
                observer.planned(plan, began, scheduled, committed, sent)
        for preparation in self._scheduler.take_preparations():
            answer = await self._runner.prepare(preparation)
            answer.add_done_callback(partial(self._on_prepared, preparation))
        return plan

    def _on_prepared(self, preparation: Preparation, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None:
            self._scheduler.is_prepared(preparation)
        else:
            if not isinstance(error, RequestError):
                logger.error("what a request needs cannot be prepared", exc_info=error)
                error = RequestError(f"the executor could not prepare what the request needs: {error}")
            self._deliver(self._scheduler.refuse(preparation, error))
        self.wake()

    async def _receive(self) -> None:
        """Takes in the oldest result."""
        began = monotonic_ns()
        result = await self._runner.receive()
        received = monotonic_ns()
        output = self._scheduler.update(result)
        self._deliver(output)
        updated = monotonic_ns()
        for observer in self._observers:
            observer.updated(result, len(output.token_ids), began, received, updated)

    def evacuate(self) -> list[Sequence]:
        """Gives up the pool in the books, and returns what is unfinished. Its scheduler is void then: nothing may be
        added or cancelled there."""
        return self._scheduler.evacuate(is_lost=not self._is_draining)

    async def close(self) -> None:
        """Gives up in the ledger what `evacuate` has freed, if the ledger answers."""
        try:
            await self._ledger.commit(self._pool, self._epoch, self._scheduler.take_transaction())
        except LedgerError as error:
            logger.info("pool %s: given up without the ledger: %s", self._pool.name, error)

    async def _commit(self) -> bool:
        """Brings the ledger up to the mirror; False if it is.

        Only the scheduler of the highest epoch writes the pool. So the mirror is right, whatever made the ledger refuse
        or lose the transaction: an emptied or restored Redis, or an answer that never came.
        """
        transaction = self._scheduler.take_transaction()
        if not transaction:
            return False
        self._is_committing = True
        try:
            await self._ledger.commit(self._pool, self._epoch, transaction)
        except StaleEpoch:
            raise
        except LedgerError as error:
            logger.warning("pool %s: %s; seeding the ledger again from the mirror", self._pool.name, error)
            for observer in self._observers:
                observer.refused(error)
            began = monotonic_ns()
            await self._seed()
            for observer in self._observers:
                observer.seeded((monotonic_ns() - began) / 1e9)
        self._is_committing = False
        for observer in self._observers:
            observer.committed(transaction)
        return True

    async def _seed(self, delay: float = 0.1) -> None:
        while True:
            try:
                return await self._ledger.seed(self._pool, self._epoch, self._scheduler.pool.state)
            except LedgerUnreachable as error:
                logger.warning("pool %s: %s; trying again in %.1f s", self._pool.name, error, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
