"""The supervisor of one executor without processes: what is left of one that is no longer named."""

import asyncio
from collections.abc import Callable

import pytest

from quire.engine.api.errors import Unavailable
from quire.engine.config import SchedulerConfig
from quire.engine.resources.ledger.lease import Term
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.step import ExecutorInfo
from quire.protos.channel import Keepalive
from quire.services.scheduler import supervisor
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.kv_events import KVEvents
from quire.services.scheduler.observer import SchedulerObserver
from quire.services.scheduler.supervisor import Supervisor
from support.simulated_executor import executor_info


class IdleLink:
    """An executor that is never given anything."""

    def __init__(self, address: str, term: Term, keepalive: Keepalive) -> None:
        self.address = address

    async def attach(self) -> ExecutorInfo:
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
        address: Supervisor(address, SchedulerConfig(), ledger, Term(1, "one"), dispatcher, KVEvents())
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


class LosingLink(IdleLink):
    """An executor whose stream ends when it is told so."""

    losses: asyncio.Queue[None]

    async def watch(self, on_draining: Callable[[], None]) -> None:
        await self.losses.get()
        raise Unavailable("the stream has ended")


class Events(SchedulerObserver):
    def __init__(self) -> None:
        self.heard: asyncio.Queue[Event] = asyncio.Queue()

    def notice(self, event: Event) -> None:
        self.heard.put_nowait(event)


async def test_a_loss_is_told_and_how_long_it_took_to_get_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ExecutorLink", LosingLink)
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.01)
    LosingLink.losses = asyncio.Queue()
    events = Events()
    ledger, dispatcher = MemoryLedger(), Dispatcher(epoch=1, observers=[events])
    running = asyncio.create_task(
        Supervisor("a", SchedulerConfig(), ledger, Term(1, "one"), dispatcher, KVEvents()).run()
    )
    async with asyncio.timeout(60):
        assert (await events.heard.get()).kind is EventKind.EXECUTOR_ATTACHED
        LosingLink.losses.put_nowait(None)
        lost, attached, recovered = [await events.heard.get() for _ in range(3)]
    assert (lost.kind, lost.detail) == (EventKind.EXECUTOR_LOST, "the stream has ended")
    assert attached.kind is EventKind.EXECUTOR_ATTACHED
    assert recovered.kind is EventKind.EXECUTOR_RECOVERED
    assert recovered.seconds is not None
    assert recovered.seconds >= supervisor.RETRY_SECONDS
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
