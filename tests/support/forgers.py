"""Peers with the certificate and the token of a service that send what no service sends."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from quire.internal.v1 import executor_pb2, executor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from quire.services.common.wire import EPOCH_METADATA
from support.internal_messages import good_submission

# Of a request that is wrong in any case: what stands before it has been dealt with when it is refused.
_LAST = 77
_NAME = "a forger"
_LIMITS_OF_GRAMMARS = ("must compile", "must allow a token", "must take at most")
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@dataclass
class Outcomes:
    """What forged messages were answered with.

    Attributes:
        codes: number of calls that ended with each.
        num_lines: lines that the service must have logged for them.
        num_unsaid: lines that it may have logged besides: a message that ends its call may have other requests, whose
            refusals are lost on their way.
        details: of the latest call with each.
    """

    codes: dict[grpc.StatusCode, int] = field(default_factory=dict)
    num_lines: int = 0
    num_unsaid: int = 0
    details: dict[grpc.StatusCode, str] = field(default_factory=dict)

    async def add(self, call: Any) -> None:
        """A call that has ended."""
        code = await call.code()
        self.details[code] = (await call.details() or "")[:200]
        self.codes[code] = self.codes.get(code, 0) + 1
        self.num_lines += code is not grpc.StatusCode.OK


def _is_refused(failed: scheduler_pb2.SequenceFailed) -> bool:
    """By the scheduler. What follows from a grammar is said by an executor, of requests that are no forgeries."""
    return failed.code == INVALID.value[0] and not any(limit in failed.message for limit in _LIMITS_OF_GRAMMARS)


class ForgedScheduler:
    """Attaches to an executor.

    Args:
        metadata: that says who it is.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Any) -> None:
        self._stub: Any = executor_pb2_grpc.ExecutorServiceStub(channel)
        self._metadata = metadata
        self._epoch = 1
        self.outcomes = Outcomes()

    async def attach(self, forged: executor_pb2.ExecuteRequest) -> None:
        """Begins a stream with it."""
        await self._converse([forged])

    async def send(self, good: Sequence[executor_pb2.ExecuteRequest], forged: executor_pb2.ExecuteRequest) -> None:
        """Sends it behind others on one stream."""
        attach = executor_pb2.Attach(epoch=self._epoch, leader=_NAME)
        await self._converse([executor_pb2.ExecuteRequest(attach=attach), *good, forged])

    async def _converse(self, messages: Sequence[executor_pb2.ExecuteRequest]) -> None:
        """Nothing is written that may cross the stream's end: gRPC would report that write instead of the status."""
        call = self._stub.Execute(metadata=self._metadata)
        with suppress(grpc.aio.AioRpcError):
            for message in messages:
                await call.write(message)
                if await call.read() is grpc.aio.EOF:
                    break
            await call.done_writing()
            await call.read()
        await self.outcomes.add(call)
        if await call.code() is grpc.StatusCode.FAILED_PRECONDITION:
            self._epoch = int(dict(await call.trailing_metadata())[EPOCH_METADATA]) + 1


class ForgedFrontend:
    """Connects to a scheduler.

    Args:
        metadata: that says who it is.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Any) -> None:
        self._stub: Any = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        self._metadata = metadata
        self.outcomes = Outcomes()

    async def send(self, forged: scheduler_pb2.ConnectRequest) -> None:
        """Sends it with one more request, waits until it has been dealt with, and goes."""
        last = forged.submissions.add()
        last.CopyFrom(good_submission(_LAST))
        last.interval = 2**32 - 1
        call = self._stub.Connect(metadata=self._metadata)
        with suppress(grpc.aio.AioRpcError):
            await call.write(forged)
            while (answer := await call.read()) is not grpc.aio.EOF:
                failed = answer.output.failed if answer.HasField("output") else ()
                self.outcomes.num_lines += sum(_is_refused(each) for each in failed)
                if any(each.handle == _LAST for each in failed):
                    await call.done_writing()
        await self.outcomes.add(call)
        if await call.code() is not grpc.StatusCode.OK:
            self.outcomes.num_unsaid += len(forged.submissions)
