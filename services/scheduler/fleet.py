"""The executors: found by address, each under a supervisor, as they come and go."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from quire.services.scheduler.supervisor import Supervisor

logger = logging.getLogger(__name__)

RESOLVE_SECONDS = 2.0
DNS = "dns:"


class Fleet:
    """Starts a supervisor for every address that is found, and lets those leave that are not found any more.

    Args:
        targets: "host:port" for one executor, or "dns:name:port" for all addresses that the name has.
        supervise: makes the supervisor of an address.
    """

    def __init__(self, targets: Sequence[str], supervise: Callable[[str], Supervisor]) -> None:
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
                found = await self._find(set(named))
                running = {address: task for address, task in running.items() if not task.done()}
                for address in sorted(found - running.keys()):
                    named[address] = self._supervise(address)
                    running[address] = tasks.create_task(named[address].run())
                for address in sorted(named.keys() - found):
                    logger.info("executor %s is no longer named", address)
                    named.pop(address).leave()
                await asyncio.sleep(RESOLVE_SECONDS)

    async def _find(self, known: set[str]) -> set[str]:
        found: set[str] = set()
        for target in self._targets:
            if target.startswith(DNS):
                found |= await _resolve(target.removeprefix(DNS), known)
            else:
                found.add(target)
        return found


async def _resolve(target: str, known: set[str]) -> set[str]:
    """Every address of a name; while the name server does not answer, no executor is dropped."""
    host, _, port = target.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        logger.warning("executors %s: %s", target, error)
        return known
    return {_join(str(info[4][0]), port) for info in infos}


def _join(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
