"""Subscribers of KV events that are slow, come late or ask for what is gone, over real sockets."""

import asyncio
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
import pytest
import zmq
import zmq.asyncio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from quire.engine.api.errors import StartupError
from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.resources.publication import Publication
from quire.services.cli import main
from quire.services.common.channel import open_channel
from quire.services.common.server import serving
from quire.services.scheduler import kv_events
from quire.services.scheduler.kv_events import KVEvents
from quire.services.scheduler.kv_events_servicer import KVEventsServicer
from quire.services.scheduler.kv_events_zmq import zmq_publisher
from quire.services.up.ports import LOOPBACK, free_port
from quire.v1 import kv_events_pb2 as pb
from quire.v1 import kv_events_pb2_grpc
from support.kv_follower import ZmqFollower

SECONDS = 60
END = (-1).to_bytes(8, "big", signed=True)
TOKENS = array("i", range(256))


class Pool:
    """A pool that publishes a block with each commit."""

    def __init__(self, events: KVEvents, name: str = "pool") -> None:
        self.events, self.name = events, name
        self.published: dict[int, Publication] = {}
        events.open(name, len(TOKENS), self.published, lambda: True)

    def commit(self, num_blocks: int = 1) -> None:
        first = len(self.published)
        new = [Publication(first + i, (first + i).to_bytes(16, "big"), b"root", TOKENS) for i in range(num_blocks)]
        self.published.update((publication.block, publication) for publication in new)
        self.events.commit(self.name, LedgerTransaction(publish=new))

    @property
    def numbers(self) -> set[int]:
        return set(self.published)


async def read_all(call: "grpc.aio.UnaryStreamCall[pb.SubscribeKVEventsRequest, pb.KVEventBatch]") -> None:
    async with asyncio.timeout(SECONDS):
        while await call.read() is not grpc.aio.EOF:
            pass


async def test_a_grpc_subscriber_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_events, "MAX_PENDING_BLOCKS", 1000)
    events, address = KVEvents(), f"{LOOPBACK}:{free_port()}"
    pool = Pool(events)

    def register(server: grpc.aio.Server) -> None:
        kv_events_pb2_grpc.add_KVEventsServiceServicer_to_server(KVEventsServicer(events), server)

    async with serving(address, ["quire.v1.KVEventsService"], register, grace=0), open_channel(address) as channel:
        call = kv_events_pb2_grpc.KVEventsServiceStub(channel).Subscribe(pb.SubscribeKVEventsRequest())
        await call.initial_metadata()
        (subscription,) = events._subscriptions
        async with asyncio.timeout(SECONDS):
            while not subscription._is_behind:
                pool.commit(100)
                await asyncio.sleep(0)
        assert not subscription._changes
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await read_all(call)
        assert ended.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(ended.value)  # type: ignore[arg-type]
        assert status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        assert not events._subscriptions


@asynccontextmanager
async def publishing(events: KVEvents, endpoint: str, replay: str | None, num_kept: int = 100) -> AsyncIterator[None]:
    with zmq_publisher(events, endpoint, replay, "model", num_kept, epoch=3) as publisher:
        running = asyncio.create_task(publisher.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def zmq_context() -> AsyncIterator[zmq.asyncio.Context]:
    context = zmq.asyncio.Context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


async def until_knows(socket: zmq.asyncio.Socket, follower: ZmqFollower, numbers: set[int], rank: int = 0) -> None:
    async with asyncio.timeout(SECONDS):
        while follower.blocks[rank] != numbers:
            topic, number, payload = await socket.recv_multipart()
            follower.apply(int.from_bytes(number, "big"), payload, topic)


async def test_zmq_connects_to_a_router_that_listens() -> None:
    events = KVEvents()
    pools = [Pool(events, name) for name in ("first", "second")]
    pools[0].commit(3)
    async with zmq_context() as context:
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        port = socket.bind_to_random_port(f"tcp://{LOOPBACK}")
        async with publishing(events, f"tcp://{LOOPBACK}:{port}", None):
            follower = ZmqFollower()
            await until_knows(socket, follower, pools[0].numbers)
            pools[1].commit(2)
            await until_knows(socket, follower, pools[1].numbers, rank=1)
            assert follower.topics == {0: "kv@first@model", 1: "kv@second@model"}
            assert follower.last is not None
            assert follower.last >> 32 == 3, "numbers begin with the epoch"


async def test_a_replay_of_what_is_gone_tells_everything_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("zmq")
    events = KVEvents()
    pool = Pool(events)
    endpoint, replay = f"ipc://{folder}/events", f"ipc://{folder}/replay"
    async with publishing(events, endpoint, replay, num_kept=4), zmq_context() as context:
        subscriber, asking = context.socket(zmq.SUB), context.socket(zmq.DEALER)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"kv@pool@")
        subscriber.connect(endpoint)
        asking.connect(replay)
        follower = ZmqFollower()
        pool.commit()
        await until_knows(subscriber, follower, pool.numbers)
        for _ in range(10):
            pool.commit()
            await until_knows(subscriber, follower, pool.numbers)
        await asking.send_multipart([b"", b"no number"])
        await asking.send_multipart([b"", (3 << 32).to_bytes(8, "big")])
        answers = []
        async with asyncio.timeout(SECONDS):
            while not answers or answers[-1][1] != END:
                answers.append(await asking.recv_multipart())
        assert follower.last is not None
        replayed = [int.from_bytes(number, "big") for _, number, _ in answers[:-1]]
        assert replayed == list(range(follower.last - 3, follower.last + 1))
        last = follower.last
        async with asyncio.timeout(SECONDS):
            topic, number, payload = await subscriber.recv_multipart()
        follower.blocks[0].clear()
        follower.apply(int.from_bytes(number, "big"), payload, topic)
        assert follower.blocks[0] == pool.numbers
        assert follower.last == last + 1


async def test_zmq_that_falls_behind_tells_everything_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(kv_events, "MAX_PENDING_BLOCKS", 10)
    events, endpoint = KVEvents(), f"ipc://{tmp_path_factory.mktemp('zmq')}/events"
    pool = Pool(events)
    async with publishing(events, endpoint, None), zmq_context() as context:
        subscriber = context.socket(zmq.SUB)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.connect(endpoint)
        follower = ZmqFollower()
        pool.commit()
        await until_knows(subscriber, follower, pool.numbers)
        pool.commit(11)
        await until_knows(subscriber, follower, pool.numbers)


@pytest.mark.parametrize("endpoint", ["tcp://nowhere", "tcp://*:0x", "ipc:///there/is/no/such/folder"])
async def test_an_address_that_cannot_be_used_is_named(endpoint: str) -> None:
    with pytest.raises(StartupError, match="--kv-events-zmq "), zmq_publisher(KVEvents(), endpoint, None, "", 1, 1):
        pass


def test_replay_needs_what_it_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scheduler", "--kv-events-zmq-replay", "tcp://*:5558"]) == 1
    assert "--kv-events-zmq-replay: needs --kv-events-zmq" in capsys.readouterr().err
