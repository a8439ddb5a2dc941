"""The executors: found by address, each under a supervisor, as they come and go."""

import asyncio
import logging
from collections.abc import Callable

from quire.services.common.targets import RESOLVE_SECONDS, Targets
from quire.services.scheduler.supervisor import Supervisor

logger = logging.getLogger(__name__)


class Fleet:
    """Starts a supervisor for every address that is found, and lets those leave that are not found any more.

    Args:
        targets: where executors are.
        supervise: makes the supervisor of an address.
    """

    def __init__(self, targets: Targets, supervise: Callable[[str], Supervisor]) -> None:
        self._targets = targets
        self._supervise = supervise

    async def run(self) -> None:
        """Runs until cancelled.

        Raises:
            StaleEpoch: another scheduler leads (in a group).
        """
        named: dict[str, Supervisor] = {}
        # An address that is named again while its supervisor still leaves has to wait: two would displace each other.
        running: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                found = await self._targets.find()
                running = {address: task for address, task in running.items() if not task.done()}
                for address in sorted(found - running.keys()):
                    named[address] = self._supervise(address)
                    running[address] = tasks.create_task(named[address].run())
                for address in sorted(named.keys() - found):
                    logger.info("executor %s is no longer named", address)
                    named.pop(address).leave()
                await asyncio.sleep(RESOLVE_SECONDS)
