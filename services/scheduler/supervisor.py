"""Keeps one executor attached: connect, open its pool, run its loop, and start over when it is lost."""

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial

from quire.engine.api.errors import InvalidRequest, LedgerError, LedgerUnreachable, StaleEpoch, Unavailable
from quire.engine.config import SchedulerConfig
from quire.engine.loop import StepLoop
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.lease import Term
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.step import ExecutorInfo
from quire.engine.step_observer import StepObserver
from quire.services.common.channel import DEFAULT_CONNECTOR, Connector
from quire.services.scheduler.attached_executor import AttachedExecutor
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.executor_link import ExecutorLink
from quire.services.scheduler.kv_events import KVEvents, PoolCommits

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.2


class Supervisor:
    """One per executor address, for as long as the scheduler leads.

    Args:
        address: the executor's "host:port", which is its pool's name in the ledger too.
        term: of this scheduler.
        kv_events: told what becomes of the pool.
        connector: how the executor is reached.
    """

    def __init__(
        self,
        address: str,
        config: SchedulerConfig,
        ledger: KVLedger,
        term: Term,
        dispatcher: Dispatcher,
        kv_events: KVEvents,
        connector: Connector = DEFAULT_CONNECTOR,
    ) -> None:
        self._address = address
        self._config = config
        self._ledger = ledger
        self._term = term
        self._dispatcher = dispatcher
        self._kv_events = kv_events
        self._connector = connector
        self._executor: AttachedExecutor | None = None
        self._identity: PoolIdentity | None = None
        self._is_leaving = False
        self._lost_at: float | None = None

    def leave(self) -> None:
        """Lets what runs on the executor finish, gives it nothing new, and makes `run` return."""
        self._is_leaving = True
        if self._executor is not None:
            self._dispatcher.drain(self._executor)

    async def run(self) -> None:
        """Runs until cancelled, or until the executor is empty after `leave`; then its pool is forgotten.

        Raises:
            StaleEpoch: another scheduler leads.
        """
        last_warning = ""
        self._dispatcher.expect(self._address)
        while not self._is_leaving:
            link = None
            try:
                link = ExecutorLink(self._address, self._term, self._connector)
                await self._drive(link)
            except (Unavailable, LedgerUnreachable, InvalidRequest) as error:
                found = str(error)
                if isinstance(error, InvalidRequest):
                    found = f"executor {self._address} is left out, as it sent what it must not: {error}"
                # Once per outage, not once per attempt.
                if found != last_warning:
                    logger.warning("%s", found)
                last_warning = found
            finally:
                if link is not None:
                    await link.close()
            await asyncio.sleep(RETRY_SECONDS)
        self._dispatcher.forget(self._address)
        if self._identity is not None:
            with suppress(LedgerUnreachable):
                await self._ledger.remove(self._identity, self._term.epoch)

    async def _drive(self, link: ExecutorLink) -> None:
        info = await link.attach()
        self._dispatcher.admit(self._address, info)
        identity = PoolIdentity(
            self._address, info.incarnation, info.fingerprint, info.num_blocks, info.block_size, info.cache_windows
        )
        scheduler = Scheduler(self._config, info, await self._open(identity, info))
        self._identity = identity
        observers = self._dispatcher.observers_of_steps(self._address)
        observers += _LedgerEvents(self._address, self._dispatcher), PoolCommits(self._address, self._kv_events)
        epoch, deliver = self._term.epoch, self._dispatcher.deliver
        loop = StepLoop(scheduler, self._ledger, identity, epoch, link, deliver, observers)
        executor = AttachedExecutor(self._address, info, scheduler, loop)
        logger.info(
            "executor %s attached: %d blocks of %d tokens, %d cached",
            self._address,
            info.num_blocks,
            info.block_size,
            scheduler.pool.num_cached,
        )
        self._dispatcher.attach(executor)
        if self._lost_at is not None:
            self._tell(EventKind.EXECUTOR_RECOVERED, "attached again", time.monotonic() - self._lost_at)
            self._lost_at = None
        self._kv_events.open(self._address, info.block_size, scheduler.pool.published, lambda: loop.is_committed)
        running = asyncio.create_task(loop.run())
        watching = asyncio.create_task(link.watch(partial(self._dispatcher.drain, executor)))
        self._executor = executor
        if self._is_leaving:
            self._dispatcher.drain(executor)
        try:
            done, _ = await asyncio.wait((running, watching), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except StaleEpoch:
            # Before frontends hear that the executor is gone: it is there, for the scheduler that leads.
            self._dispatcher.close()
            raise
        except (Unavailable, InvalidRequest) as error:
            if not executor.is_draining:
                self._lost_at = time.monotonic()
                self._tell(EventKind.EXECUTOR_LOST, str(error))
            raise
        finally:
            self._executor = None
            for task in (running, watching):
                task.cancel()
            await asyncio.gather(running, watching, return_exceptions=True)
            self._kv_events.close(self._address)
            # At once: until then requests may still be sent to the scheduler, or cancelled there.
            self._dispatcher.detach(executor, loop.evacuate())
            await loop.close()
            if executor.is_draining:
                self._tell(EventKind.EXECUTOR_LEFT)

    def _tell(self, kind: EventKind, detail: str = "", seconds: float | None = None) -> None:
        self._dispatcher.notice(Event(kind, self._address, detail, seconds))

    async def _open(self, identity: PoolIdentity, info: ExecutorInfo) -> PoolState:
        state = await self._ledger.open(identity, self._term.epoch)
        faults = audit(state, identity.num_groups)
        if state.step < info.committed:
            faults.append(f"it ends at step {state.step}, the executor has run step {info.committed}")
        if state.step_epoch < info.committed_epoch:
            faults.append(
                f"it is of epoch {state.step_epoch}, the executor has run plans of epoch {info.committed_epoch}"
            )
        if faults:
            why = "; ".join(faults[:3])
            logger.error("pool %s: the ledger's cache is dropped: %s", identity.name, why)
            self._tell(EventKind.LEDGER_DROPPED, why)
            state = PoolState(identity.num_blocks, step=info.committed)
            await self._ledger.seed(identity, self._term.epoch, state)
        return state


class _LedgerEvents(StepObserver):
    """What happens to the ledger of an executor's pool, as events."""

    def __init__(self, executor: str, dispatcher: Dispatcher) -> None:
        self._executor = executor
        self._dispatcher = dispatcher

    def refused(self, error: LedgerError) -> None:
        self._dispatcher.notice(Event(EventKind.LEDGER_REFUSED, self._executor, str(error)))

    def seeded(self, seconds: float) -> None:
        self._dispatcher.notice(Event(EventKind.LEDGER_RECOVERED, self._executor, "seeded from the mirror", seconds))
