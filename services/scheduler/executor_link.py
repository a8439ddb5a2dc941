"""The scheduler's end of one executor's stream."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

import grpc

from quire.engine.api.errors import StaleEpoch, Unavailable
from quire.engine.loop import StepRunner
from quire.engine.step import ExecutorInfo, StepPlan, StepResult
from quire.protos.channel import DEFAULT_KEEPALIVE, Keepalive
from quire.protos.status import readable
from quire.services.common import wire
from quire.services.common.channel import open_channel
from quire.v1 import executor_pb2 as pb
from quire.v1 import executor_pb2_grpc

ATTACH_SECONDS = 10.0


class ExecutorLink(StepRunner):
    """An attached executor: plans down, results up, in order.

    Attributes:
        info: who the executor is.
    """

    def __init__(self, address: str, keepalive: Keepalive = DEFAULT_KEEPALIVE) -> None:
        self._address = address
        self._channel = open_channel(address, keepalive)
        self._call = executor_pb2_grpc.ExecutorServiceStub(self._channel).Execute()
        self._results: asyncio.Queue[StepResult] = asyncio.Queue()

    async def attach(self, epoch: int) -> ExecutorInfo:
        """Takes the executor over for this epoch; its slots are empty then.

        Raises:
            StaleEpoch: it obeys a scheduler of a higher epoch.
            Unavailable: it does not answer.
        """
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                await self._call.write(pb.ExecuteRequest(attach=pb.Attach(epoch=epoch)))
                response = await self._read()
        except TimeoutError as error:
            raise Unavailable(f"executor {self._address}: no answer in {ATTACH_SECONDS:.0f} s") from error
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            await self._raise(error)
        return wire.info_from_proto(response.info)

    async def send(self, plan: StepPlan) -> None:
        try:
            await self._call.write(pb.ExecuteRequest(plan=wire.plan_to_proto(plan)))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            await self._raise(error)

    async def receive(self) -> StepResult:
        return await self._results.get()

    async def watch(self, on_draining: Callable[[], None]) -> NoReturn:
        """Passes on what comes, also while nothing is asked for, so that a loss is seen at once.

        Args:
            on_draining: called when the executor says that it is about to stop.

        Raises:
            StaleEpoch, Unavailable: the stream has ended.
        """
        while True:
            response = await self._read()
            if response.HasField("draining"):
                on_draining()
            else:
                self._results.put_nowait(wire.result_from_proto(response.result))

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close(None)

    async def _read(self) -> pb.ExecuteResponse:
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            await self._raise(error)
        if not isinstance(response, pb.ExecuteResponse):  # grpc.aio.EOF
            await self._raise(None)
        return response

    async def _raise(self, error: Exception | None) -> NoReturn:
        """The call's own status says more than the operation that failed on it."""
        code, details = await self._call.code(), await self._call.details()
        if code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED):
            trailing = dict(await self._call.trailing_metadata())
            owner = int(trailing.get(wire.EPOCH_METADATA, 0))
            raise StaleEpoch(f"executor {self._address}: {details}", owner) from error
        raise Unavailable(f"executor {self._address}: {code.name}: {readable(details)}") from error
