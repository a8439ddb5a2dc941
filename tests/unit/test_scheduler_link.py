"""What a frontend refuses by itself, and until when a call counts: against a scheduler that says what the test says."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from quire.engine.api.errors import Overloaded
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.open_request import OpenRequest
from quire.engine.text.tokenizer import Tokenizer
from quire.internal.v1 import scheduler_pb2 as pb
from quire.internal.v1 import scheduler_pb2_grpc
from quire.services.common import wire
from quire.services.common.targets import Targets
from quire.services.common.wire import submission_from_proto
from quire.services.frontend.inference import Inference
from quire.services.frontend.open_calls import OpenCalls
from quire.services.frontend.scheduler_link import SchedulerLink
from quire.services.frontend.servicer import InferenceServicer
from quire.v1 import inference_pb2 as inference_pb

STATE = pb.ServingState(epoch=1, num_executors=1, vocab_size=2000, max_model_len=100, num_blocks=64, block_size=4)
MAX_REQUESTS = 4
# The machine may be busy.
SECONDS = 60.0


class Scheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Sends what it is given to the one frontend, and keeps what comes."""

    def __init__(self) -> None:
        # None ends the stream.
        self.sent: asyncio.Queue[pb.ConnectResponse | None] = asyncio.Queue()
        self.received: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()

    async def Connect(
        self, requests: AsyncIterator[pb.ConnectRequest], context: Any
    ) -> AsyncIterator[pb.ConnectResponse]:
        reading = asyncio.create_task(self._read(requests))
        try:
            while (message := await self.sent.get()) is not None:
                yield message
        finally:
            reading.cancel()

    async def finish(self, link: SchedulerLink, *requests: OpenRequest) -> None:
        """They end after a token each."""
        handles = [request.handle for request in requests]
        finished = [pb.SequenceFinished(handle=each, reason=inference_pb.FINISH_REASON_LENGTH) for each in handles]
        output = pb.StepOutput(handles=wire.pack(handles), token_ids=wire.pack([300] * len(handles)), finished=finished)
        await self.sent.put(pb.ConnectResponse(output=output))
        for request in requests:
            await asyncio.wait_for(request.wait(), SECONDS)

    async def _read(self, requests: AsyncIterator[pb.ConnectRequest]) -> None:
        async for request in requests:
            await self.received.put(request)


@pytest.fixture
async def scheduler() -> Scheduler:
    return Scheduler()


@pytest.fixture
async def link(scheduler: Scheduler) -> AsyncIterator[SchedulerLink]:
    """Connected to the scheduler, which has said what can be served, and that two may be queued."""
    server = grpc.aio.server()
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    link = SchedulerLink(Targets(f"127.0.0.1:{port}"), "frontend", MAX_REQUESTS, "")
    running = asyncio.create_task(link.run())
    await tell(scheduler, link, STATE, room=2, retry_ms=36_000)
    yield link
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await server.stop(None)


async def tell(scheduler: Scheduler, link: SchedulerLink, state: pb.ServingState, room: int, retry_ms: int = 0) -> None:
    await scheduler.sent.put(pb.ConnectResponse(state=state, queue=pb.QueueState(room=room, retry_ms=retry_ms)))
    async with asyncio.timeout(SECONDS):
        while link.state != state:
            await link.state_changed()


def submit(link: SchedulerLink, name: str) -> OpenRequest:
    return link.submit(name, np.array([5], np.int32), SamplingParams(seed=0, max_tokens=9))


async def test_what_the_queue_cannot_take_is_refused_here(scheduler: Scheduler, link: SchedulerLink) -> None:
    submit(link, "a")
    waiting = submit(link, "b")
    with pytest.raises(Overloaded, match="queues are full") as refused:
        submit(link, "c")
    assert refused.value.retry_after == 36
    # It leaves the queue without a word from the scheduler.
    link.close(waiting)
    submit(link, "d")
    with pytest.raises(Overloaded):
        link.check_room()
    await tell(scheduler, link, pb.ServingState(**{**_fields(STATE), "epoch": 2}), room=1)
    submit(link, "e")
    names: list[str] = []
    async with asyncio.timeout(SECONDS):
        while len(names) < 3:
            names += [each.request_id for each in (await scheduler.received.get()).submissions]
    assert "c" not in names


def tenant(name: str, weight: int = 1, deadline_ms: int | None = None) -> RequestOptions:
    return RequestOptions(tenant=name, tenant_weight=weight, deadline_ms=deadline_ms)


def submit_for(link: SchedulerLink, options: RequestOptions) -> OpenRequest:
    return link.submit(
        f"{options.tenant} {link.num_requests}", np.array([5], np.int32), SamplingParams(seed=0, max_tokens=9), options
    )


async def test_tenants_that_have_more_than_their_share_are_refused_here(
    scheduler: Scheduler, link: SchedulerLink
) -> None:
    queue = pb.QueueState(room=2, full_tenants=["flood"], retry_ms=36_000)
    await scheduler.sent.put(pb.ConnectResponse(state=STATE, load=pb.Load(num_waiting=7), queue=queue))
    async with asyncio.timeout(SECONDS):
        while link.load.num_waiting != 7:
            await asyncio.sleep(0.01)
    with pytest.raises(Overloaded, match="have more than the share of flood") as refused:
        submit_for(link, tenant("flood"))
    assert refused.value.retry_after == 36
    submit_for(link, tenant("polite", 3, 60_000))
    # What one submits takes no room from the others before the scheduler says so.
    submit_for(link, tenant("polite"))
    with pytest.raises(Overloaded, match="queues are full"):
        submit_for(link, tenant("polite"))
    submit_for(link, tenant("third"))
    found: list[pb.Submission] = []
    async with asyncio.timeout(SECONDS):
        while len(found) < 3:
            found += (await scheduler.received.get()).submissions
    assert [(each.tenant, each.tenant_weight) for each in found] == [("polite", 3), ("polite", 1), ("third", 1)]
    assert 0 < found[0].deadline_ms <= 60_000
    assert [each.HasField("deadline_ms") for each in found] == [True, False, False]
    assert submission_from_proto(1, found[0]).options == tenant("polite", 3, found[0].deadline_ms)


async def test_open_calls_are_shared_among_tenants() -> None:
    """Clients of one that leave their answers unread keep nobody else out."""
    calls = OpenCalls(16, lambda request: None)
    requests = [OpenRequest(n, "", np.array([5], np.int32), SamplingParams(), tenant("flood")) for n in range(12)]
    for request in requests:
        calls.check("flood", 1)
        calls.begin(request)
    with pytest.raises(Overloaded, match="12 requests are open on this frontend, 12 of them of flood, whose"):
        calls.check("flood", 1)
    calls.check("polite", 1)
    assert calls.end(requests[0])
    calls.check("flood", 1)


async def test_a_scheduler_that_has_just_begun_to_lead_has_no_full_queues(
    scheduler: Scheduler, link: SchedulerLink
) -> None:
    """Its executors are not attached yet; requests wait for them."""
    await scheduler.sent.put(None)
    queue = pb.QueueState(room=0)
    await scheduler.sent.put(pb.ConnectResponse(state=pb.ServingState(epoch=2), queue=queue))
    await scheduler.sent.put(pb.ConnectResponse(load=pb.Load(num_waiting=7), queue=queue))
    async with asyncio.timeout(SECONDS):
        while link.load.num_waiting != 7:
            await asyncio.sleep(0.01)
    submit(link, "a")
    await tell(scheduler, link, pb.ServingState(**{**_fields(STATE), "epoch": 2}), room=1)
    async with asyncio.timeout(SECONDS):
        while not (submissions := (await scheduler.received.get()).submissions):
            pass  # the frontend's name
    assert [each.request_id for each in submissions] == ["a"]
    submit(link, "b")
    with pytest.raises(Overloaded, match="queues are full"):
        submit(link, "c")


async def test_a_call_counts_until_it_is_closed(scheduler: Scheduler, link: SchedulerLink) -> None:
    await tell(scheduler, link, pb.ServingState(**{**_fields(STATE), "epoch": 2}), room=100)
    requests = [submit(link, str(index)) for index in range(MAX_REQUESTS)]
    await scheduler.finish(link, *requests)
    assert all(request.is_over for request in requests)
    with pytest.raises(Overloaded, match="open on this frontend"):
        submit(link, "more")
    for request in requests:
        link.abort(request)
    with pytest.raises(Overloaded, match="open on this frontend"):
        link.check_room()
    link.close(requests[0])
    submit(link, "more")


async def test_a_stream_counts_until_its_last_message_is_sent(scheduler: Scheduler, link: SchedulerLink) -> None:
    inference = Inference("demo", Tokenizer.load(DEMO_MODEL), link)
    message = inference_pb.GenerateRequest(token_ids=inference_pb.TokenIds(ids=[5]), request_id="a")
    context: Any = SimpleNamespace(invocation_metadata=lambda: ())
    stream = InferenceServicer(inference).GenerateStream(message, context)
    first = asyncio.ensure_future(anext(stream))
    async with asyncio.timeout(SECONDS):
        while (request := link.find("a")) is None:
            await asyncio.sleep(0)
    await scheduler.finish(link, request)
    assert (await first).HasField("finish")
    assert inference.num_requests == 1
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert inference.num_requests == 0


def _fields(state: pb.ServingState) -> dict[str, Any]:
    return {field.name: value for field, value in state.ListFields()}
