"""What watchers are told is what the schedulers' books say, and nobody is told anything who does not watch."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import Overloaded
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.config import SchedulerConfig
from quire.engine.loop import StepLoop, StepRunner
from quire.engine.preparation import Preparation
from quire.engine.request import Request
from quire.engine.resources.block_pool import BlockPool
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.step import ExecutorInfo, StepPlan, StepResult
from quire.internal.v1 import scheduler_pb2 as pb
from quire.protos.block_map import BlockKind, apply_runs, new_map, split_state
from quire.services.scheduler.attached_executor import AttachedExecutor
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.frontend_stream import FrontendStream
from quire.services.scheduler.watch import watch as watch_module
from quire.services.scheduler.watch.event_line import event_line
from quire.services.scheduler.watch.journal import Journal
from quire.services.scheduler.watch.latency import latency
from quire.services.scheduler.watch.watch import MAX_READERS, Watch
from support.simulated_executor import SimulatedExecutor, executor_info

NUM_BLOCKS = 12
NOTHING = np.empty(0, np.int32)


class SimulatedRunner(StepRunner):
    """Computes a plan when its result is asked for, and lets others have their turn before."""

    def __init__(self, info: ExecutorInfo) -> None:
        self._executor = SimulatedExecutor(info)
        self._plans: deque[StepPlan] = deque()

    async def send(self, plan: StepPlan) -> None:
        self._plans.append(plan)

    async def prepare(self, preparation: Preparation) -> "asyncio.Future[None]":
        raise AssertionError("no request of these tests has a structure")

    async def examine(self, name: str, path: str) -> Adapter:
        raise AssertionError("these tests load no adapter")

    async def receive(self) -> StepResult:
        await asyncio.sleep(0)
        return self._executor.execute(self._plans.popleft())


class Service:
    """A dispatcher with one executor, which runs, and a frontend."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.dispatcher = Dispatcher(3, [self.journal])
        self.watch = Watch(self.dispatcher, self.journal)
        self.stream: FrontendStream = self.dispatcher.connect()
        self.running: asyncio.Task[None] | None = None
        self.executor = self.attach()

    def attach(self) -> AttachedExecutor:
        info = executor_info(NUM_BLOCKS)
        scheduler = Scheduler(SchedulerConfig(), info, PoolState(info.num_blocks))
        identity = PoolIdentity("first", info.incarnation, info.fingerprint, info.num_blocks, info.block_size)
        ledger = MemoryLedger()
        loop = StepLoop(scheduler, ledger, identity, 3, SimulatedRunner(info), self.dispatcher.deliver)
        executor = AttachedExecutor("first", info, scheduler, loop)

        async def run() -> None:
            await ledger.open(identity, 3)
            await loop.run()

        self.dispatcher.attach(executor)
        self.running = asyncio.create_task(run())
        return executor

    def submit(self, handle: int, prompt: list[int], max_tokens: int = 6) -> None:
        params = SamplingParams(seed=0, max_tokens=max_tokens, ignore_eos=True)
        array = np.array(prompt, np.int32)
        self.dispatcher.submit(
            self.stream, Request(f"request-{handle}", self.stream.client, handle, array, NOTHING, params)
        )

    async def settled(self) -> None:
        while self.stream.sequences:
            await asyncio.sleep(0)

    async def stop(self) -> None:
        assert self.running is not None
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(watch_module, "INTERVAL_SECONDS", 0.0)
    service = Service()
    yield service
    await service.stop()


class Reader:
    """Follows snapshots as a frontend does."""

    def __init__(self) -> None:
        self.states: Int32Array = new_map(0)
        self.last = pb.Snapshot()
        self.num_generated = self.num_first_tokens = 0
        self.ended: list[pb.RequestSnapshot] = []
        self.seen: set[str] = set()

    def take(self, snapshot: pb.Snapshot) -> None:
        self.last = snapshot
        for executor in snapshot.executors:
            if executor.is_whole:
                self.states = new_map(executor.statistics.num_blocks)
            apply_runs(self.states, executor.block_runs)
        self.num_generated += snapshot.figures.num_generated
        self.num_first_tokens += snapshot.figures.time_to_first_token.count
        self.ended += [each for each in snapshot.requests if each.state == pb.REQUEST_STATE_ENDED]
        self.seen |= {each.request_id for each in snapshot.requests}


def books(pool: BlockPool) -> list[tuple[bool, bool, bool]]:
    """Whether each block is held, by several, and otherwise cached."""
    refs, cached = pool.state.refs, pool.state.cached
    return [(block in refs, refs.get(block, 0) > 1, block in cached) for block in range(pool.num_blocks)]


def shown(states: Int32Array) -> list[tuple[bool, bool, bool]]:
    kinds = [split_state(state)[1] for state in states.tolist()]
    return [(kind >= BlockKind.HELD, kind == BlockKind.SHARED, kind == BlockKind.CACHED) for kind in kinds]


async def test_the_map_is_what_the_books_say_all_along(service: Service) -> None:
    # More than the pool holds, with prefixes in common, and one that is cancelled.
    rng = np.random.default_rng(5)
    for handle in range(24):
        service.submit(handle, [1, 2, 3, 4, 5, 6, 1, 2][: rng.integers(1, 9)] + rng.integers(1, 7, 4).tolist())
    reader, kinds, owners = Reader(), set[BlockKind](), set[int]()
    async with aclosing(service.watch.follow()) as snapshots:
        async for snapshot in snapshots:
            reader.take(snapshot)
            # Nothing runs between a snapshot and here.
            assert shown(reader.states) == books(service.executor.scheduler.pool)
            found = [split_state(state) for state in reader.states.tolist()]
            kinds |= {kind for _, kind in found}
            running = {each.owner for each in snapshot.requests if each.state != pb.REQUEST_STATE_ENDED}
            retiring = {int(each.holder) for each in service.executor.scheduler.running}
            assert {owner for owner, kind in found if kind >= BlockKind.HELD} <= running | retiring
            owners |= {owner for owner, _ in found}
            if len(reader.ended) == 12:
                service.dispatcher.cancel(service.stream, 23)
            if not service.stream.sequences and not service.executor.scheduler.num_running:
                break
    assert kinds == set(BlockKind)
    assert len(owners) > 12
    assert len(reader.ended) == 24
    assert {each.executor for each in reader.ended} == {"first"}


async def test_figures_and_requests_are_those_of_what_ran(service: Service) -> None:
    reader = Reader()
    async with aclosing(service.watch.follow()) as snapshots:
        reader.take(await anext(snapshots))
        for handle in range(3):
            service.submit(handle, [1 + handle, 2, 3, 4, 5], max_tokens=7)
        while len(reader.ended) < 3:
            reader.take(await anext(snapshots))
    assert (reader.num_generated, reader.num_first_tokens) == (21, 3)
    assert reader.seen == {"request-0", "request-1", "request-2"}
    assert {(each.num_prompt, each.num_generated) for each in reader.ended} == {(5, 7)}
    assert reader.last.epoch == 3


async def test_a_late_reader_is_told_everything_again(service: Service) -> None:
    late, prompt = Reader(), Reader()
    async with aclosing(service.watch.follow()) as slow, aclosing(service.watch.follow()) as fast:
        late.take(await anext(slow))
        service.submit(1, [1, 2, 3, 4, 5])
        service.dispatcher.notice(Event(EventKind.EXECUTOR_LOST, "second", "it died"))
        for _ in range(5):
            prompt.take(await anext(fast))
        await service.settled()
        prompt.take(await anext(fast))
        snapshot = await anext(slow)
        assert snapshot.executors[0].is_whole
        assert [each.text for each in snapshot.events][-1] == "executor second is lost: it died"
        late.take(snapshot)
        assert late.states.tolist() == prompt.states.tolist()


async def test_an_executor_that_comes_back_has_a_new_map(service: Service) -> None:
    reader = Reader()
    async with aclosing(service.watch.follow()) as snapshots:
        service.submit(1, [1, 2, 3, 4, 5])
        await service.settled()
        reader.take(await anext(snapshots))
        reader.take(await anext(snapshots))
        assert reader.states.any()
        await service.stop()
        service.dispatcher.detach(service.executor, service.executor.loop.evacuate())
        assert not (await anext(snapshots)).executors
        service.executor = service.attach()
        snapshot = await anext(snapshots)
        reader.take(snapshot)
        assert snapshot.executors[0].is_whole
        assert not reader.states.any()


async def test_nothing_is_gathered_for_nobody(service: Service) -> None:
    loop = service.executor.loop
    async with aclosing(service.watch.follow()) as first, aclosing(service.watch.follow()) as second:
        await anext(first)
        await anext(second)
        assert len(loop._observers) == 1
    assert loop._observers == ()
    service.submit(1, [1, 2, 3])
    await service.settled()
    assert service.journal.take_ended() == []
    assert service.journal.take_first_tokens() == []
    assert service.journal._began == {}


@asynccontextmanager
async def full_house(watch: Watch) -> AsyncIterator[None]:
    """As many as may watch."""
    everyone = [watch.follow() for _ in range(MAX_READERS)]
    for each in everyone:
        await anext(each)
    yield
    for each in everyone:
        await each.aclose()


async def test_more_readers_than_may_watch_are_refused(service: Service) -> None:
    async with full_house(service.watch):
        with pytest.raises(Overloaded, match=f"{MAX_READERS} watch, at most {MAX_READERS} may"):
            await anext(service.watch.follow())
    async with aclosing(service.watch.follow()) as snapshots:
        await anext(snapshots)


@pytest.mark.parametrize("kind", EventKind)
def test_every_kind_of_event_is_a_line(kind: EventKind) -> None:
    line = event_line(1, Event(kind, "a:1", "why", 1.234))
    assert "a:1" in line.text
    assert "{" not in line.text
    assert line.level != pb.EVENT_LEVEL_UNSPECIFIED
    assert ("1.23 s" in line.text) == (line.level == pb.EVENT_LEVEL_RECOVERY)


def test_quantiles_count_samples_as_often_as_they_happened() -> None:
    assert latency([]) == pb.Latency()
    assert latency([(0.010, 94), (0.5, 6)]) == pb.Latency(count=100, p50_us=10_000, p95_us=500_000)
    assert latency([(0.5, 4), (0.010, 96)]) == pb.Latency(count=100, p50_us=10_000, p95_us=10_000)
