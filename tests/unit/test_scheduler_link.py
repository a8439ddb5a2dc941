"""What a frontend refuses by itself, and until when a call counts: against a scheduler that says what the test says."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from quire.engine.api.errors import Overloaded
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.open_request import OpenRequest
from quire.engine.text.tokenizer import Tokenizer
from quire.internal.v1 import scheduler_pb2 as pb
from quire.internal.v1 import scheduler_pb2_grpc
from quire.services.common import wire
from quire.services.common.targets import Targets
from quire.services.frontend.inference import Inference
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
        self.sent: asyncio.Queue[pb.ConnectResponse] = asyncio.Queue()
        self.received: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()

    async def Connect(
        self, requests: AsyncIterator[pb.ConnectRequest], context: Any
    ) -> AsyncIterator[pb.ConnectResponse]:
        reading = asyncio.create_task(self._read(requests))
        try:
            while True:
                yield await self.sent.get()
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
