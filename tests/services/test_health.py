"""Health tells the truth: SERVING means that tokens can be made now, and whoever is not serving says why."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.protos.channel import REASON_METADATA
from quire.services.common.channel import open_channel
from quire.services.common.health import LIVE
from quire.services.up.ports import LOOPBACK, free_port
from quire.services.up.process import Child
from support.redis_server import RedisServer, redis_server
from support.stacks import RunningStack, launch

# Far more than it takes: a busy machine must not fail a test.
SECONDS = 200.0
NO_REDIS = "Redis does not answer: the leader's lease cannot be renewed"
GREEDY = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as own:
        yield own


@pytest.fixture(scope="module")
def own_stack(redis: RedisServer) -> Iterator[RunningStack]:
    with launch(DEMO_MODEL, redis=redis.url) as running:
        yield running


@pytest.fixture
async def client(own_stack: RunningStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(own_stack.frontend) as connected:
        await connected.ready(SECONDS)
        yield connected


async def health(address: str, service: str = "") -> str:
    """The reason why it is not serving; "": it is."""
    async with open_channel(address) as channel:
        call = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        status = (await call).status
        reason = dict(await call.trailing_metadata() or ()).get(REASON_METADATA, "")
        assert (status == health_pb2.HealthCheckResponse.SERVING) is (not reason)
        return str(reason)


async def until_health(address: str, reason: str) -> None:
    """Returns when this is how the reason begins; "": when it is serving."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                if (found := await health(address)) == reason or (reason and found.startswith(reason)):
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0.01)


async def http_health(address: str) -> str:
    """The reason why GET /health is not 200; "": it is."""
    async with aiohttp.ClientSession() as http, http.get(f"http://{address}/health") as answer:
        body = await answer.json()
        assert (answer.status == 200) is ("error" not in body)
        return "" if answer.status == 200 else str(body["error"]["message"])


async def test_a_redis_that_never_answers(own_stack: RunningStack, client: AsyncClient, redis: RedisServer) -> None:
    """What runs and what comes waits, and goes on."""
    expected = (await client.generate("def f(", GREEDY)).token_ids
    scheduler = own_stack.stack.schedulers[0]
    running = asyncio.create_task(client.generate("def f(", GREEDY))
    with redis.frozen():
        await until_health(scheduler, NO_REDIS)
        await until_health(own_stack.frontend, NO_REDIS)
        assert await http_health(own_stack.http) == NO_REDIS
        assert await health(scheduler, LIVE) == await health(own_stack.frontend, LIVE) == ""
        assert not running.done()
        waiting = asyncio.create_task(client.generate("def f(", GREEDY))
    async with asyncio.timeout(SECONDS):
        assert (await running).token_ids == (await waiting).token_ids == expected
    await until_health(own_stack.frontend, "")
    assert await http_health(own_stack.http) == ""


async def test_no_executor(own_stack: RunningStack, client: AsyncClient) -> None:
    await asyncio.to_thread(own_stack.signal, "executor", signal.SIGKILL)
    reason = "no executor is attached"
    await until_health(own_stack.stack.schedulers[0], reason)
    await until_health(own_stack.frontend, reason)
    assert await http_health(own_stack.http) == reason
    await asyncio.to_thread(own_stack.start, "executor")
    await until_health(own_stack.frontend, "")


async def test_no_scheduler_then_one_that_waits_for_redis(
    own_stack: RunningStack, client: AsyncClient, redis: RedisServer
) -> None:
    await asyncio.to_thread(own_stack.signal, "scheduler", signal.SIGKILL)
    await until_health(own_stack.frontend, "no scheduler leads")
    redis.stop()
    await asyncio.to_thread(own_stack.start, "scheduler")
    scheduler = own_stack.stack.schedulers[0]
    await until_health(scheduler, f"standby: Redis: cannot connect to {redis.address}: Connection refused")
    assert await health(scheduler, LIVE) == ""
    redis.start()
    await until_health(scheduler, "")
    await until_health(own_stack.frontend, "")
    assert len((await client.generate("def f(", GREEDY)).token_ids) == GREEDY.max_tokens


async def test_a_standby_says_who_leads(own_stack: RunningStack, client: AsyncClient) -> None:
    place = f"{LOOPBACK}:{free_port()}"
    child = await asyncio.to_thread(own_stack.call, Child.start(own_stack.stack.programs.scheduler("another", place)))
    leader = f"{socket.gethostname()}/{own_stack.child('scheduler').pid}/"
    await until_health(place, f"standby: {leader}")
    assert await health(place, LIVE) == ""
    assert await asyncio.to_thread(own_stack.call, child.stop(SECONDS)) == 0
