"""The scheduler's end of one executor's stream."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import NoReturn

import grpc

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest, StaleEpoch, Unavailable
from quire.engine.loop import StepRunner
from quire.engine.preparation import Preparation
from quire.engine.resources.ledger.lease import Term
from quire.engine.step import ExecutorInfo, StepPlan, StepResult
from quire.internal.v1 import executor_pb2 as pb
from quire.internal.v1 import executor_pb2_grpc
from quire.protos.status import readable
from quire.services.common import wire
from quire.services.common.channel import DEFAULT_CONNECTOR, Connector
from quire.services.common.first_of import first_of
from quire.services.common.liveness import until_silent

ATTACH_SECONDS = 10.0


class ExecutorLink(StepRunner):
    """An attached executor: plans down, results up, in order.

    Args:
        address: "host:port".
        term: nothing is sent while its lease does not hold.
        connector: how it is reached.
    """

    def __init__(self, address: str, term: Term, connector: Connector = DEFAULT_CONNECTOR) -> None:
        """Raises `Unavailable` if the connector has no credentials now."""
        self._address = address
        self._term = term
        self._channel = connector.open(address)
        self._stall_seconds = connector.stall_seconds
        self._call = executor_pb2_grpc.ExecutorServiceStub(self._channel).Execute(metadata=connector.metadata)
        self._results: asyncio.Queue[StepResult] = asyncio.Queue()
        self._num_due = 0
        self._numbers = count(1)
        # What becomes ready has a digest if it is an adapter that was examined.
        self._preparing: dict[int, asyncio.Future[str]] = {}
        self._vocab_size = 0

    async def attach(self) -> ExecutorInfo:
        """Takes the executor over for this term; its slots are empty then.

        Raises:
            StaleEpoch: it obeys a scheduler of a higher epoch, or another of the same one.
            Unavailable: it does not answer.
            InvalidRequest: its answer is not what an executor says.
        """
        await self._term.held()
        try:
            async with asyncio.timeout(ATTACH_SECONDS):
                attach = pb.Attach(epoch=self._term.epoch, leader=self._term.leader)
                await self._call.write(pb.ExecuteRequest(attach=attach))
                response = await self._read()
        except TimeoutError as error:
            raise Unavailable(f"executor {self._address}: no answer in {ATTACH_SECONDS:.0f} s") from error
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            await self._raise(error)
        if not response.HasField("info"):
            raise InvalidRequest("message", response.WhichOneof("message"), "must be info where a stream begins")
        info = wire.info_from_proto(response.info)
        self._vocab_size = info.vocab_size
        return info

    async def send(self, plan: StepPlan) -> None:
        await self._term.held()
        self._num_due += 1
        try:
            await self._call.write(pb.ExecuteRequest(plan=wire.plan_to_proto(plan)))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            await self._raise(error)

    async def prepare(self, preparation: Preparation) -> asyncio.Future[str]:
        return await self._ask(wire.prepare_to_proto(next(self._numbers), preparation))

    async def examine(self, name: str, path: str) -> Adapter:
        answer = await self._ask(wire.examine_to_proto(next(self._numbers), name, path))
        try:
            return Adapter(name, path, await answer)
        except asyncio.CancelledError:
            if not answer.cancelled():
                raise
            raise Unavailable(f"executor {self._address} is gone") from None

    async def _ask(self, message: pb.Prepare) -> asyncio.Future[str]:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._preparing[message.number] = answer
        try:
            await self._call.write(pb.ExecuteRequest(prepare=message))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            await self._raise(error)
        return answer

    async def receive(self) -> StepResult:
        return await self._results.get()

    async def watch(self, on_draining: Callable[[], None]) -> NoReturn:
        """Passes on what comes, also while nothing is asked for, so that a loss is seen at once.

        Args:
            on_draining: called when the executor says that it is about to stop.

        Raises:
            StaleEpoch, Unavailable: the stream has ended, or the executor does not answer.
            InvalidRequest: what comes is no result of a plan that was sent.
        """
        await first_of(self._guard(), self._take_all(on_draining))

    async def _guard(self) -> NoReturn:
        await until_silent(self._channel, self._stall_seconds)
        raise Unavailable(f"executor {self._address}: it has not answered for {self._stall_seconds:g} s")

    async def _take_all(self, on_draining: Callable[[], None]) -> NoReturn:
        while True:
            response = await self._read()
            if response.HasField("draining"):
                on_draining()
            elif response.HasField("result") and self._num_due:
                self._num_due -= 1
                self._results.put_nowait(wire.result_from_proto(response.result, self._vocab_size))
            elif response.HasField("prepared") and response.prepared.number in self._preparing:
                self._take_prepared(response.prepared)
            else:
                limit = f"must be draining, prepared as asked, or a result of one of {self._num_due} plans sent"
                raise InvalidRequest("message", response.WhichOneof("message"), limit)

    async def close(self) -> None:
        for answer in self._preparing.values():
            answer.cancel()
        self._call.cancel()
        await self._channel.close(None)

    def _take_prepared(self, prepared: pb.Prepared) -> None:
        error = wire.prepared_from_proto(prepared)
        answer = self._preparing.pop(prepared.number)
        if error is None:
            answer.set_result(prepared.digest)
        else:
            answer.set_exception(error)

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
            owner = wire.epoch_from_metadata(await self._call.trailing_metadata(), self._term.epoch)
            raise StaleEpoch(f"executor {self._address}: {details}", owner) from error
        raise Unavailable(f"executor {self._address}: {code.name}: {readable(details)}") from error
