"""Keeps one executor attached: connect, open its pool, run its loop, and start over when it is lost."""

import asyncio
import logging

from quire.engine.config import SchedulerConfig
from quire.engine.errors import LedgerUnreachable, Unavailable
from quire.engine.loop import StepLoop
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.scheduling.scheduler import Scheduler
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.executor_link import ExecutorLink
from quire.services.scheduler.pool import Pool

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5


class Supervisor:
    """One per executor address, for as long as the scheduler leads.

    Args:
        address: the executor's "host:port", which is its pool's name in the ledger too.
        epoch: of this scheduler.
    """

    def __init__(
        self, address: str, config: SchedulerConfig, ledger: KVLedger, epoch: int, dispatcher: Dispatcher
    ) -> None:
        self._address = address
        self._config = config
        self._ledger = ledger
        self._epoch = epoch
        self._dispatcher = dispatcher

    async def run(self) -> None:
        """Runs until cancelled.

        Raises:
            StaleEpoch: another scheduler leads.
        """
        complaint = ""
        while True:
            link = ExecutorLink(self._address)
            try:
                await self._drive(link)
            except (Unavailable, LedgerUnreachable) as error:
                # Once per outage, not once per attempt.
                if str(error) != complaint:
                    logger.warning("%s", error)
                complaint = str(error)
            finally:
                await link.close()
            await asyncio.sleep(RETRY_SECONDS)

    async def _drive(self, link: ExecutorLink) -> None:
        info = await link.attach(self._epoch)
        identity = PoolIdentity(self._address, info.incarnation, info.fingerprint, info.num_blocks, info.block_size)
        scheduler = Scheduler(self._config, info, await self._open(identity, info.committed))
        loop = StepLoop(scheduler, self._ledger, identity, self._epoch, link, self._dispatcher.deliver)
        pool = Pool(self._address, info, scheduler, loop)
        logger.info(
            "executor %s attached: %d blocks of %d tokens, %d cached",
            self._address,
            info.num_blocks,
            info.block_size,
            scheduler.pool.num_cached,
        )
        self._dispatcher.attach(pool)
        try:
            await loop.run()
        finally:
            self._dispatcher.detach(pool, await loop.close())

    async def _open(self, identity: PoolIdentity, committed: int) -> PoolState:
        state = await self._ledger.open(identity, self._epoch)
        faults = audit(state)
        if state.step < committed:
            faults.append(f"it ends at step {state.step}, the executor has run step {committed}")
        if faults:
            logger.error("pool %s: the ledger's cache is dropped: %s", identity.name, "; ".join(faults[:3]))
            state = PoolState(identity.num_blocks, step=committed)
            await self._ledger.seed(identity, self._epoch, state)
        return state
