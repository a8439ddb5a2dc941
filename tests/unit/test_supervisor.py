"""The supervisor of one executor without processes: what is left of one that is no longer named."""

import asyncio
from collections.abc import Callable

import pytest

from quire.engine.config import SchedulerConfig
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.step import ExecutorInfo
from quire.protos.channel import Keepalive
from quire.services.scheduler import supervisor
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.supervisor import Supervisor
from support.simulated_executor import executor_info


class IdleLink:
    """An executor that is never given anything."""

    def __init__(self, address: str, keepalive: Keepalive) -> None:
        self.address = address

    async def attach(self, epoch: int) -> ExecutorInfo:
        return executor_info()

    async def watch(self, on_draining: Callable[[], None]) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


async def test_the_pool_of_an_executor_that_left_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ExecutorLink", IdleLink)
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.01)
    ledger, dispatcher = MemoryLedger(), Dispatcher(epoch=1)
    found = {
        address: Supervisor(address, SchedulerConfig(), ledger, await ledger.next_epoch(), dispatcher)
        for address in ("stays", "goes")
    }
    running = {address: asyncio.create_task(each.run()) for address, each in found.items()}
    while len(await ledger.pools()) < 2 or not dispatcher.is_serving:
        await asyncio.sleep(0.01)
    found["goes"].leave()
    async with asyncio.timeout(60):
        await running["goes"]
    assert await ledger.pools() == ["stays"]
    assert [each.name for each in dispatcher.statistics().executors] == ["stays"]
    running["stays"].cancel()
    await asyncio.gather(*running.values(), return_exceptions=True)
