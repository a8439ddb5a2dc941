"""Which scheduler a frontend follows, and what it takes of the one that it has left: against schedulers of the test."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np

from quire.engine.api.sampling import SamplingParams
from quire.internal.v1 import scheduler_pb2 as pb
from quire.internal.v1 import scheduler_pb2_grpc
from quire.services.common import wire
from quire.services.common.targets import Targets
from quire.services.frontend.scheduler_link import SchedulerLink

# The machine may be busy.
SECONDS = 60.0


class Stream:
    """A frontend's stream: what it sends, and what it gets; None ends it."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
        self.sent: asyncio.Queue[pb.ConnectResponse | None] = asyncio.Queue()

    def lead(self, epoch: int) -> None:
        state = pb.ServingState(
            epoch=epoch, num_executors=1, vocab_size=2000, max_model_len=100, num_blocks=64, block_size=4
        )
        self.sent.put_nowait(pb.ConnectResponse(state=state))

    def push(self, handle: int, token_id: int) -> None:
        output = pb.StepOutput(handles=wire.pack([handle]), token_ids=wire.pack([token_id]))
        self.sent.put_nowait(pb.ConnectResponse(output=output))

    async def submitted(self) -> pb.Submission:
        """The next submission."""
        async with asyncio.timeout(SECONDS):
            while not (request := await self.received.get()).submissions:
                pass
        (submission,) = request.submissions
        return submission


class Scheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    def __init__(self) -> None:
        self._streams: asyncio.Queue[Stream] = asyncio.Queue()

    async def stream(self) -> Stream:
        """The next stream that a frontend opens."""
        return await asyncio.wait_for(self._streams.get(), SECONDS)

    async def Connect(
        self, requests: AsyncIterator[pb.ConnectRequest], context: Any
    ) -> AsyncIterator[pb.ConnectResponse]:
        stream = Stream()
        self._streams.put_nowait(stream)
        reading = asyncio.create_task(self._read(requests, stream))
        try:
            while (response := await stream.sent.get()) is not None:
                yield response
        finally:
            reading.cancel()

    @staticmethod
    async def _read(requests: AsyncIterator[pb.ConnectRequest], stream: Stream) -> None:
        async for request in requests:
            stream.received.put_nowait(request)


async def test_a_token_of_a_former_leader_never_comes_behind_those_of_the_next() -> None:
    """Docs: lease_protocol.md, guard LEAVE_STREAM."""
    former, latter, server = Scheduler(), Scheduler(), grpc.aio.server()
    other_server = grpc.aio.server()
    ports = []
    for scheduler, each in ((former, server), (latter, other_server)):
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, each)
        ports.append(each.add_insecure_port("127.0.0.1:0"))
        await each.start()
    link = SchedulerLink(Targets(",".join(f"127.0.0.1:{port}" for port in ports)), "frontend", 4, "")
    running = asyncio.create_task(link.run())
    try:
        old, new = await former.stream(), await latter.stream()
        old.lead(epoch=1)
        async with asyncio.timeout(SECONDS):
            while not link.state.num_executors:
                await link.state_changed()
        request = link.submit("one", np.array([5], np.int32), SamplingParams(seed=0, max_tokens=9))
        handle = (await old.submitted()).handle
        new.lead(epoch=2)
        assert (await new.submitted()).handle == handle
        new.push(handle, 300)
        await asyncio.wait_for(request.wait(), SECONDS)
        # The second one dies, and what the first one sent long ago comes now.
        new.sent.put_nowait(None)
        await latter.stream()
        old.push(handle, 300)
        again = await former.stream()
        again.lead(epoch=3)
        submission = await again.submitted()
        assert np.frombuffer(submission.generated, "<i4").tolist() == [300]
        again.push(handle, 301)
        await asyncio.wait_for(request.wait(), SECONDS)
        assert request.take() == [300, 301]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.stop(None)
        await other_server.stop(None)
