"""Followers of KV events know what the ledger has, while prefixes are shared and evicted and services are killed."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest
import zmq
import zmq.asyncio

from quire.clients.async_client import AsyncClient
from quire.engine.api.options import DEFAULT_OPTIONS, CacheParams, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.resources.ledger.redis import RedisLedger
from quire.services.common.channel import open_channel
from quire.v1 import kv_events_pb2 as pb
from quire.v1 import kv_events_pb2_grpc
from support.kv_follower import GrpcFollower, ZmqFollower
from support.stacks import RunningStack, launch

NUM_BLOCKS = 24
SHARED = list(range(100, 140))
PARAMS = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
SALTED = RequestOptions(cache=CacheParams(salt="of one tenant"))
END = (-1).to_bytes(8, "big", signed=True)
SECONDS = 60


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Of what is published, and of its replay."""
    folder = tmp_path_factory.mktemp("zmq")
    return f"ipc://{folder}/events", f"ipc://{folder}/replay"


@pytest.fixture(scope="module")
def followed(addresses: tuple[str, str]) -> Iterator[RunningStack]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("QUIRE_SCHEDULER_KV_EVENTS_ZMQ", addresses[0])
        environment.setenv("QUIRE_SCHEDULER_KV_EVENTS_ZMQ_REPLAY", addresses[1])
        environment.setenv("QUIRE_SCHEDULER_KV_EVENTS_MODEL", "demo")
        with launch(DEMO_MODEL, executor={"num_blocks": NUM_BLOCKS}, num_executors=2) as running:
            yield running


async def indexes(stack: RunningStack) -> dict[str, set[bytes]]:
    """The prefix index of each pool in the ledger."""
    ledger = RedisLedger.connect(stack.stack.redis)
    try:
        found = {name: await ledger.snapshot(name) for name in stack.stack.executors}
        return {name: set(each[1].index) if each else set() for name, each in found.items()}
    finally:
        await ledger.close()


def numbers(names: set[bytes]) -> set[int]:
    return {int.from_bytes(name[-8:], "big") for name in names}


async def send_requests(stack: RunningStack, seed: int, options: RequestOptions = DEFAULT_OPTIONS) -> None:
    """More than both pools hold, whatever goes where; all begin alike."""
    draw = random.Random(seed)
    prompts = [SHARED + [draw.randrange(2048) for _ in range(48)] for _ in range(NUM_BLOCKS)]
    async with AsyncClient(stack.frontend) as client:
        await asyncio.gather(*(client.generate(prompt, PARAMS, options=options) for prompt in prompts))
    await stack.assert_settled()


class GrpcReader:
    """Applies what a call brings."""

    def __init__(self, call: "grpc.aio.UnaryStreamCall[pb.SubscribeKVEventsRequest, pb.KVEventBatch]") -> None:
        self.call = call
        self.follower = GrpcFollower()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self.follower.apply(await self.call.read())

    def told(self) -> dict[str, set[bytes]]:
        """Blocks of which the tokens were told, which are those that ZeroMQ has."""
        return {pool: set(tokens) for pool, tokens in self.follower.tokens.items()}

    async def until_knows(self, expected: dict[str, set[bytes]]) -> None:
        await self.until(lambda: not self.follower.partial and self.follower.blocks == expected)


@asynccontextmanager
async def grpc_reader(stack: RunningStack) -> AsyncIterator[GrpcReader]:
    async with open_channel(stack.stack.schedulers[0]) as channel:
        call = kv_events_pb2_grpc.KVEventsServiceStub(channel).Subscribe(pb.SubscribeKVEventsRequest())
        await call.initial_metadata()
        yield GrpcReader(call)
        call.cancel()


class ZmqReader:
    """Applies what is published, and asks again for what it has missed.

    Attributes:
        num_to_miss: messages that it loses from now on.
        num_replayed: messages that came by replay.
    """

    def __init__(self, context: zmq.asyncio.Context, addresses: tuple[str, str]) -> None:
        self._subscriber = context.socket(zmq.SUB)
        self._subscriber.setsockopt(zmq.SUBSCRIBE, b"kv@")
        self._subscriber.connect(addresses[0])
        self._replay = context.socket(zmq.DEALER)
        self._replay.connect(addresses[1])
        self.follower = ZmqFollower()
        self.num_to_miss = 0
        self.num_replayed = 0

    async def read(self) -> None:
        topic, number, payload = await self._subscriber.recv_multipart()
        if self.num_to_miss:
            self.num_to_miss -= 1
            return
        place = int.from_bytes(number, "big")
        if not self.follower.is_next(place) and self.follower.last is not None and place > self.follower.last:
            await self._catch_up(self.follower.last + 1)
        if self.follower.is_next(place):
            self.follower.apply(place, payload, topic)

    async def _catch_up(self, first: int) -> None:
        await self._replay.send_multipart([b"", first.to_bytes(8, "big")])
        while True:
            _, number, payload = await self._replay.recv_multipart()
            if number == END:
                return
            if not self.follower.is_next(int.from_bytes(number, "big")):
                self.follower = ZmqFollower()  # what was in between is lost, and so what was known is void
            self.follower.apply(int.from_bytes(number, "big"), payload)
            self.num_replayed += 1

    async def until_knows(self, expected: dict[str, set[bytes]]) -> None:
        wanted = {f"kv@{pool}@demo": numbers(names) for pool, names in expected.items()}
        async with asyncio.timeout(SECONDS):
            while self.known() != wanted:
                await self.read()

    def known(self) -> dict[str, set[int | bytes]]:
        follower = self.follower
        return {topic: follower.blocks[rank] for rank, topic in follower.topics.items()}


@asynccontextmanager
async def zmq_reader(addresses: tuple[str, str]) -> AsyncIterator[ZmqReader]:
    context = zmq.asyncio.Context()
    try:
        yield ZmqReader(context, addresses)
    finally:
        context.destroy(linger=0)


async def test_followers_know_what_the_ledger_has(followed: RunningStack, addresses: tuple[str, str]) -> None:
    async with grpc_reader(followed) as reader, zmq_reader(addresses) as zmq_follower:
        await send_requests(followed, seed=1)
        expected = await indexes(followed)
        await reader.until_knows(expected)
        assert reader.follower.num_removed > 0
        assert all(reader.follower.tokens[pool].keys() == names for pool, names in expected.items())
        await zmq_follower.until_knows(expected)

        zmq_follower.num_to_miss = 2
        await send_requests(followed, seed=2)
        expected = await indexes(followed)
        await reader.until_knows(expected)
        await zmq_follower.until_knows(expected)
        assert zmq_follower.num_replayed >= 2

        async with grpc_reader(followed) as late, zmq_reader(addresses) as late_zmq:
            await late.until_knows(expected)
            assert late.follower.num_removed == 0
            await late_zmq.until_knows(expected)


async def test_a_salt_shows_neither_itself_nor_tokens(followed: RunningStack, addresses: tuple[str, str]) -> None:
    async with grpc_reader(followed) as reader, zmq_reader(addresses) as zmq_follower:
        await send_requests(followed, seed=3, options=SALTED)
        expected = await indexes(followed)
        await reader.until_knows(expected)
        assert any(names - reader.told()[pool] for pool, names in expected.items())
        await zmq_follower.until_knows(reader.told())


@pytest.mark.chaos
async def test_a_killed_executor_holds_nothing(followed: RunningStack, addresses: tuple[str, str]) -> None:
    async with grpc_reader(followed) as reader, zmq_reader(addresses) as zmq_follower:
        await send_requests(followed, seed=4)
        before = await indexes(followed)
        await reader.until_knows(before)
        num_cleared = reader.follower.num_cleared
        await asyncio.to_thread(followed.signal, "executor0", signal.SIGKILL)
        lost, kept = followed.stack.executors
        await reader.until(lambda: reader.follower.num_cleared > num_cleared)
        assert reader.follower.blocks == {lost: set(), kept: before[kept]}
        await zmq_follower.until_knows(reader.told())
        await asyncio.to_thread(followed.start, "executor0")
        await reader.until(lambda: reader.follower.num_cleared > num_cleared + 1)
        await send_requests(followed, seed=5)
        expected = await indexes(followed)
        assert expected[lost]
        await reader.until_knows(expected)
        await zmq_follower.until_knows(reader.told())


async def test_a_new_scheduler_tells_what_the_ledger_has(followed: RunningStack, addresses: tuple[str, str]) -> None:
    await send_requests(followed, seed=6)
    async with grpc_reader(followed) as reader, zmq_reader(addresses) as zmq_follower:
        await reader.until_knows(await indexes(followed))
        await zmq_follower.until_knows(reader.told())
        await asyncio.to_thread(followed.signal, "scheduler", signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await reader.until(lambda: False)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.to_thread(followed.start, "scheduler")
        await asyncio.to_thread(followed.until_serving)
        async with grpc_reader(followed) as again:
            inherited = await indexes(followed)
            await again.until_knows(inherited)
            assert not any(again.follower.tokens.values())
            await send_requests(followed, seed=6)
            expected = await indexes(followed)
            await again.until_knows(expected)
            told = again.told()
            assert any(told[pool] & inherited[pool] for pool in expected), "what was used is told with its tokens"
            await zmq_follower.until_knows(told)
