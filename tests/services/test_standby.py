"""Two schedulers, one of which leads: whatever ends the lead, every text is the one without the fault."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.services.common.channel import open_channel
from quire.services.up.ports import LOOPBACK, free_port
from quire.services.up.process import Child
from quire.services.up.programs import SCHEDULERS
from support.prompts import random_prompts
from support.redis_server import RedisServer, redis_server
from support.scrapes import scrape, total
from support.stacks import RunningStack, launch

PROMPTS = random_prompts(4, 200, 2048, seed=3)
GREEDY = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)
SAMPLED = SamplingParams(temperature=0.8, seed=5, max_tokens=100, ignore_eos=True)
PARAMS = [(GREEDY, SAMPLED)[index % 2] for index in range(len(PROMPTS))]
Tokens = list[tuple[int, ...]]
# The machine may be busy.
SECONDS = 120


@dataclass
class Load:
    """Requests that follow each other without a pause, so that some begin at any moment.

    Attributes:
        num_answers: all as expected; anything else raises.
    """

    frontend: str
    expected: Tokens = field(default_factory=list)
    num_answers: int = 0
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until `stop`."""
        async with AsyncClient(self.frontend) as client, asyncio.TaskGroup() as tasks:
            for index in range(len(PROMPTS)):
                tasks.create_task(self._ask_on(client, index))

    async def some(self) -> None:
        """Returns when as many answers have come as there are streams, all of them asked for after now, or before."""
        goal = self.num_answers + 2 * len(PROMPTS)
        while self.num_answers < goal:
            self._answered.clear()
            await self._answered.wait()

    def stop(self) -> None:
        self._over.set()

    async def _ask_on(self, client: AsyncClient, index: int) -> None:
        while not self._over.is_set():
            answer = await client.generate(PROMPTS[index], PARAMS[index])
            assert tuple(answer.token_ids) == self.expected[index]
            self.num_answers += 1
            self._answered.set()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def pair(redis: RedisServer) -> Iterator[RunningStack]:
    with pytest.MonkeyPatch.context() as patch:
        # However long a process takes to start here.
        patch.setenv("QUIRE_FRONTEND_FAILOVER_SECONDS", str(SECONDS))
        with launch(DEMO_MODEL, executor={"num_blocks": 120}, standby=True, redis=redis.url, metrics_port=0) as running:
            yield running


@pytest.fixture(scope="module")
def expected(pair: RunningStack) -> Tokens:
    async def undisturbed() -> Tokens:
        async with AsyncClient(pair.frontend) as client:
            asked = (client.generate(prompt, params) for prompt, params in zip(PROMPTS, PARAMS, strict=True))
            return [tuple(answer.token_ids) for answer in await asyncio.gather(*asked)]

    return asyncio.run(undisturbed())


@asynccontextmanager
async def loaded(pair: RunningStack, expected: Tokens) -> AsyncIterator[Load]:
    """Load from before a fault to behind its end; an answer that is not as expected ends the test."""
    load = Load(pair.frontend, expected)
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run())
        await load.some()
        yield load
        await load.some()
        load.stop()
    await pair.assert_settled()


async def is_leading(address: str) -> bool | None:
    """None: it does not answer."""
    async with open_channel(address) as channel:
        with suppress(grpc.aio.AioRpcError):
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
            return answer.status == health_pb2.HealthCheckResponse.SERVING
    return None


async def roles(*addresses: str) -> tuple[str, list[str]]:
    """The address of the leader and those of the standbys, as soon as all are there."""
    async with asyncio.timeout(SECONDS):
        while True:
            found = [await is_leading(address) for address in addresses]
            if found.count(True) == 1 and found.count(False) == len(addresses) - 1:
                break
            await asyncio.sleep(0.02)
    leader = addresses[found.index(True)]
    return leader, [address for address in addresses if address != leader]


async def until_leading(address: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not await is_leading(address):
            await asyncio.sleep(0.02)


async def test_both_schedulers_have_metrics_and_the_leader_counts_executors(pair: RunningStack) -> None:
    leader, _ = await roles(*pair.stack.schedulers)
    places = pair.stack.metrics[0], pair.stack.metrics[-1]
    counts = [total(scrape(place), "quire_scheduler_executors", state="serving") for place in places]
    assert counts == [int(address == leader) for address in pair.stack.schedulers]


def name_of(pair: RunningStack, address: str) -> str:
    return SCHEDULERS[pair.stack.schedulers.index(address)]


async def test_both_are_restarted_in_turn_and_no_request_fails(pair: RunningStack, expected: Tokens) -> None:
    async with loaded(pair, expected):
        for _ in SCHEDULERS:
            leader, (standby,) = await roles(*pair.stack.schedulers)
            assert await asyncio.to_thread(pair.signal, name_of(pair, leader), signal.SIGTERM) == 0
            await until_leading(standby)
            await asyncio.to_thread(pair.start, name_of(pair, leader))


async def test_a_standby_takes_over_from_a_leader_that_is_killed(pair: RunningStack, expected: Tokens) -> None:
    """Of two standbys one leads then, and the other waits."""
    async with loaded(pair, expected):
        leader, (standby,) = await roles(*pair.stack.schedulers)
        third = f"{LOOPBACK}:{free_port()}"
        child = await asyncio.to_thread(pair.call, Child.start(pair.stack.programs.scheduler("third", third)))
        await roles(leader, standby, third)
        await asyncio.to_thread(pair.signal, name_of(pair, leader), signal.SIGKILL)
        await roles(standby, third)
        # The frontend does not know the third: if that one leads, requests wait until it has gone.
        assert await asyncio.to_thread(pair.call, child.stop(60)) == 0
        await until_leading(standby)
        await asyncio.to_thread(pair.start, name_of(pair, leader))


@pytest.mark.chaos
async def test_a_leader_that_was_frozen_becomes_the_standby(pair: RunningStack, expected: Tokens) -> None:
    async with loaded(pair, expected) as load:
        leader, (standby,) = await roles(*pair.stack.schedulers)
        child = pair.child(name_of(pair, leader))
        os.kill(child.pid, signal.SIGSTOP)
        try:
            await until_leading(standby)
            # Its frontend has left it: these come while it is still frozen.
            await load.some()
        finally:
            os.kill(child.pid, signal.SIGCONT)
        assert await roles(leader, standby) == (standby, [leader])
        assert child.is_running


@pytest.mark.chaos
async def test_redis_is_emptied_and_lost_with_both_alive(
    pair: RunningStack, redis: RedisServer, expected: Tokens
) -> None:
    async with loaded(pair, expected) as load:
        await roles(*pair.stack.schedulers)
        await asyncio.to_thread(redis.call, "FLUSHALL")
        await load.some()
        await asyncio.to_thread(redis.stop)
        await asyncio.sleep(1)  # longer than a lease
        await asyncio.to_thread(redis.start)
        await load.some()
        await roles(*pair.stack.schedulers)
        assert all(pair.child(name).is_running for name in SCHEDULERS)
