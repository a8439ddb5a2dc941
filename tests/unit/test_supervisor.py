"""The supervisor of one executor without processes: what is left of one that is no longer named."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pytest

from quire.engine.api.errors import Unavailable
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.request import Request
from quire.engine.resources.ledger.lease import Term
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.step import ExecutorInfo, StepPlan
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


class BehindLink(IdleLink):
    """An executor that has run step 6, as epoch 2 planned it."""

    async def attach(self) -> ExecutorInfo:
        return replace(executor_info(), committed=6, committed_epoch=2)


@pytest.mark.parametrize(
    ("epoch", "step", "why"),
    [
        (2, 6, ""),
        (2, 5, "it ends at step 5, the executor has run step 6"),
        (1, 6, "it is of epoch 1, the executor has run plans of epoch 2"),
    ],
)
async def test_books_from_before_what_the_executor_has_run_are_dropped(
    monkeypatch: pytest.MonkeyPatch, epoch: int, step: int, why: str
) -> None:
    """Redis has lost its last second; or it was emptied, and a deposed scheduler has written the pool again."""
    monkeypatch.setattr(supervisor, "ExecutorLink", BehindLink)
    events, ledger, info = Events(), MemoryLedger(), executor_info()
    pool = PoolIdentity("a", info.incarnation, info.fingerprint, info.num_blocks, info.block_size)
    state = PoolState(info.num_blocks, hashes={3: b"x"}, index={b"x": 3}, cached={3: 1}, step=step)
    await ledger.seed(pool, epoch, state)
    dispatcher = Dispatcher(epoch=3, observers=[events])
    running = asyncio.create_task(
        Supervisor("a", SchedulerConfig(), ledger, Term(3, "one"), dispatcher, KVEvents()).run()
    )
    async with asyncio.timeout(60):
        heard = [await events.heard.get()]
        while heard[-1].kind is not EventKind.EXECUTOR_ATTACHED:
            heard.append(await events.heard.get())
    assert [each.detail for each in heard if each.kind is EventKind.LEDGER_DROPPED] == ([why] if why else [])
    found = await ledger.snapshot("a")
    assert found is not None
    assert bool(found[1].cached) == (not why)
    assert (found[1].step, found[1].step_epoch) == (6, 3 if why else 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class SilentLedger(MemoryLedger):
    """Answers nothing once it is told to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: asyncio.Event | None = None

    async def commit(self, pool: PoolIdentity, epoch: int, tx: LedgerTransaction) -> None:
        if self.asked is not None:
            self.asked.set()
            await asyncio.Event().wait()
        await super().commit(pool, epoch, tx)


class BusyLink(LosingLink):
    """Takes plans and never answers them."""

    plans: asyncio.Queue[StepPlan]

    async def send(self, plan: StepPlan) -> None:
        self.plans.put_nowait(plan)

    async def receive(self) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError


async def test_requests_of_a_lost_executor_wait_for_no_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ExecutorLink", BusyLink)
    BusyLink.losses, BusyLink.plans = asyncio.Queue(), asyncio.Queue()
    ledger, dispatcher = SilentLedger(), Dispatcher(epoch=1)
    running = asyncio.create_task(
        Supervisor("a", SchedulerConfig(), ledger, Term(1, "one"), dispatcher, KVEvents()).run()
    )
    async with asyncio.timeout(60):
        while not dispatcher.is_serving:
            await dispatcher.changed()
        stream = dispatcher.connect()
        for handle in (1, 2):
            prompt, nothing = np.array([handle, 2, 3], np.int32), np.empty(0, np.int32)
            params = SamplingParams(seed=0, max_tokens=4)
            dispatcher.submit(stream, Request("", stream.client, handle, prompt, nothing, params))
        await BusyLink.plans.get()
        ledger.asked = asyncio.Event()
        BusyLink.losses.put_nowait(None)
        await ledger.asked.wait()
    assert not dispatcher.is_serving, "new requests would go to an executor that is gone"
    dispatcher.cancel(stream, 1)
    assert set(stream.sequences) == {2}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    dispatcher.disconnect(stream)
    assert not stream.sequences
