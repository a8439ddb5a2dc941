"""quire.internal.v1.ExecutorService over an `Executor`."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TypeAlias

import grpc

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import MAX_COUNTER
from quire.engine.executor import Executor
from quire.engine.loop import MAX_STEPS_IN_FLIGHT
from quire.engine.step_thread import Launched, StepThread
from quire.engine.trace import Trace
from quire.engine.validation import check_range
from quire.internal.v1 import executor_pb2 as pb
from quire.internal.v1 import executor_pb2_grpc
from quire.services.common import wire
from quire.services.common.wire import EPOCH_METADATA

logger = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[pb.ExecuteRequest, pb.ExecuteResponse]
_DRAINING = pb.ExecuteResponse(draining=pb.Draining())
# None ends the stream.
_Results: TypeAlias = asyncio.Queue[Launched | pb.ExecuteResponse | None]


class ExecutorServicer(executor_pb2_grpc.ExecutorServiceServicer):
    """Obeys the scheduler of the highest epoch; one stream at a time."""

    def __init__(self, executor: Executor, trace: Trace) -> None:
        self._executor = executor
        self._thread = StepThread(executor, trace)
        self._epoch = 0
        self._num_attached = 0
        self._newest_step = 0
        self._committed = 0
        self._stream: asyncio.Task[None] | None = None
        self._results: _Results = asyncio.Queue()
        self._ended = asyncio.Event()

    async def Execute(
        self, request_iterator: AsyncIterator[pb.ExecuteRequest], context: _Context
    ) -> AsyncIterator[pb.ExecuteResponse]:
        try:
            async with aclosing(self._execute(request_iterator, context)) as responses:
                async for response in responses:
                    yield response
        except InvalidRequest as error:
            logger.warning("a scheduler's stream is ended: %s", error)
            raise

    async def _execute(
        self, request_iterator: AsyncIterator[pb.ExecuteRequest], context: _Context
    ) -> AsyncGenerator[pb.ExecuteResponse]:
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("attach"):
            raise InvalidRequest("message", _kind(first), "must be attach where a stream begins")
        check_range("attach.epoch", first.attach.epoch, 0, MAX_COUNTER)
        await self._attach(first.attach.epoch, context)
        info = replace(self._executor.info, committed=self._committed)
        results: _Results = asyncio.Queue()
        reader = asyncio.create_task(self._read(request_iterator, results))
        self._stream, self._results = reader, results
        try:
            yield pb.ExecuteResponse(info=wire.info_to_proto(info))
            while (result := await results.get()) is not None:
                if isinstance(result, pb.ExecuteResponse):
                    yield result
                else:
                    yield pb.ExecuteResponse(result=wire.result_to_proto(await self._thread.result(result)))
            await reader
        except asyncio.CancelledError:
            if not reader.cancelled():
                raise
            await self._refuse(context, grpc.StatusCode.ABORTED, "displaced")
        finally:
            if self._stream is reader:
                self._stream = None
                self._ended.set()
            reader.cancel()
            # The requests can be closed only when nobody reads them any more.
            await asyncio.gather(reader, return_exceptions=True)
            _discard(results)

    async def drain(self, timeout: float) -> None:
        """Tells the scheduler that this executor is about to stop; returns when it has let go, or after `timeout`."""
        if self._stream is not None:
            self._ended.clear()
            self._results.put_nowait(_DRAINING)
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._ended.wait()

    async def _attach(self, epoch: int, context: _Context) -> None:
        if epoch < self._epoch:
            await self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"epoch {epoch} is over")
        self._epoch = epoch
        self._num_attached += 1
        number = self._num_attached
        if self._stream is not None:
            self._stream.cancel()
        # Behind whatever step still runs for the stream before.
        await self._thread.reset()
        if number != self._num_attached:
            await self._refuse(context, grpc.StatusCode.ABORTED, "displaced")
        logger.info("attached to a scheduler of epoch %d", epoch)

    async def _refuse(self, context: _Context, code: grpc.StatusCode, reason: str) -> None:
        message = f"{reason}: this executor obeys epoch {self._epoch}"
        await context.abort(code, message, ((EPOCH_METADATA, str(self._epoch)),))

    async def _read(self, requests: AsyncIterator[pb.ExecuteRequest], results: _Results) -> None:
        """Starts each plan as it comes, so that the next waits on the thread while one runs."""
        try:
            async for request in requests:
                if not request.HasField("plan"):
                    raise InvalidRequest("message", _kind(request), "must be a plan behind the attach")
                if results.qsize() > MAX_STEPS_IN_FLIGHT:
                    limit = f"must wait until at most {MAX_STEPS_IN_FLIGHT} plans are unanswered"
                    raise InvalidRequest("plan", request.plan.step, limit)
                plan = wire.plan_from_proto(request.plan, self._executor.info, self._newest_step)
                self._newest_step = max(self._newest_step, plan.step)
                self._committed = max(self._committed, plan.committed)
                results.put_nowait(self._thread.launch(plan))
        finally:
            results.put_nowait(None)


def _kind(request: pb.ExecuteRequest | None) -> str | None:
    return None if request is None else request.WhichOneof("message")


def _discard(results: _Results) -> None:
    """Nobody asks for these any more; what became of them would be logged as if someone should have."""
    while not results.empty():
        result = results.get_nowait()
        if isinstance(result, asyncio.Future):
            result.add_done_callback(_look)


def _look(done: Launched) -> None:
    if not done.cancelled():
        done.exception()
