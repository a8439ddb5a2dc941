"""quire.internal.v1.ExecutorService over an `Executor`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import grpc

from quire.engine.activity import Activity
from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest, RequestError
from quire.engine.executor import Executor
from quire.engine.loop import MAX_STEPS_IN_FLIGHT
from quire.engine.step import ExecutorInfo, StepPlan
from quire.engine.step_observer import StepObserver
from quire.engine.step_thread import Launched, StepThread
from quire.engine.validation import check_range
from quire.internal.v1 import executor_pb2 as pb
from quire.internal.v1 import executor_pb2_grpc
from quire.services.common import wire
from quire.services.common.wire import EPOCH_METADATA, MAX_NAME, highest_epoch

logger = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[pb.ExecuteRequest, pb.ExecuteResponse]
_DRAINING = pb.ExecuteResponse(draining=pb.Draining())
_Answer: TypeAlias = Launched | pb.ExecuteResponse | None


class _Answers:
    """What a stream is answered with, in this order; None ends it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[_Answer] = asyncio.Queue()
        self._num_plans = 0

    def put(self, answer: _Answer) -> None:
        self._num_plans += isinstance(answer, asyncio.Future)
        self._queue.put_nowait(answer)

    async def get(self) -> _Answer:
        answer = await self._queue.get()
        self._num_plans -= isinstance(answer, asyncio.Future)
        return answer

    def launch(self, plan: StepPlan, thread: StepThread) -> None:
        """Raises `InvalidRequest` if too many plans have not been answered."""
        if self._num_plans > MAX_STEPS_IN_FLIGHT:
            limit = f"must wait until at most {MAX_STEPS_IN_FLIGHT} plans are unanswered"
            raise InvalidRequest("plan", plan.step, limit)
        self.put(thread.launch(plan))

    def prepare(self, request: pb.Prepare, thread: StepThread, info: ExecutorInfo) -> None:
        """Answers when it is done, in whatever order; raises `InvalidRequest` for what the scheduler has let pass."""
        prepared: asyncio.Future[Adapter] | asyncio.Future[None]
        if request.HasField("examined"):
            wanted = wire.examined_from_proto("prepare.examined", request.examined)
            prepared = thread.examine(wanted.name, wanted.path)
        else:
            prepared = thread.prepare(wire.preparation_from_proto(request, info))
        prepared.add_done_callback(partial(self._put_prepared, request.number))

    def discard(self) -> None:
        """Nobody asks for these any more; what became of them would be logged as if someone should have."""
        while not self._queue.empty():
            answer = self._queue.get_nowait()
            if isinstance(answer, asyncio.Future):
                answer.add_done_callback(_look)

    def _put_prepared(self, number: int, prepared: asyncio.Future[Any]) -> None:
        if prepared.cancelled():
            return
        error = prepared.exception()
        if error is not None and not isinstance(error, RequestError):
            logger.error("what a request needs cannot be prepared", exc_info=error)
            error = RequestError(f"the executor could not prepare what the request needs: {error}")
        examined = prepared.result() if error is None else None
        digest = examined.digest if isinstance(examined, Adapter) else ""
        self.put(pb.ExecuteResponse(prepared=wire.prepared_to_proto(number, error, digest)))


class ExecutorServicer(executor_pb2_grpc.ExecutorServiceServicer):
    """Obeys the scheduler of the highest epoch, the first that comes with it; one stream at a time."""

    def __init__(self, executor: Executor, observers: Iterable[StepObserver] = (), is_spare: bool = False) -> None:
        self._is_spare = is_spare
        self._executor = executor
        self._thread = StepThread(executor, observers)
        self._epoch, self._leader = 0, ""
        self._num_attached = 0
        self._newest_step = 0
        self._committed, self._committed_epoch = 0, 0
        self._stream: asyncio.Task[None] | None = None
        self._answers = _Answers()
        self._ended = asyncio.Event()

    @property
    def is_attached(self) -> bool:
        """Whether a scheduler drives this executor now."""
        return self._stream is not None

    @property
    def activities(self) -> tuple[Activity, ...]:
        """What must not last."""
        return self._thread.activities

    @property
    def epoch(self) -> int:
        """Of the scheduler that it obeys."""
        return self._epoch

    async def Execute(
        self, request_iterator: AsyncIterator[pb.ExecuteRequest], context: _Context
    ) -> AsyncIterator[pb.ExecuteResponse]:
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("attach"):
            raise InvalidRequest("message", _kind(first), "must be attach where a stream begins")
        check_range("attach.epoch", first.attach.epoch, 0, highest_epoch(self._epoch))
        check_range("attach.leader", len(first.attach.leader), 0, MAX_NAME, "characters")
        await self._attach(first.attach, context)
        info = replace(
            self._executor.info,
            is_spare=self._is_spare,
            committed=self._committed,
            committed_epoch=self._committed_epoch,
        )
        answers = _Answers()
        reader = asyncio.create_task(self._read(request_iterator, answers))
        self._stream, self._answers = reader, answers
        try:
            yield pb.ExecuteResponse(info=wire.info_to_proto(info))
            while (answer := await answers.get()) is not None:
                if isinstance(answer, pb.ExecuteResponse):
                    yield answer
                else:
                    yield pb.ExecuteResponse(result=wire.result_to_proto(await self._thread.result(answer)))
            await reader
        except asyncio.CancelledError:
            if not reader.cancelled():
                raise
            await self._end(context, grpc.StatusCode.ABORTED, "displaced")
        finally:
            if self._stream is reader:
                self._stream = None
                self._ended.set()
            reader.cancel()
            # The requests can be closed only when nobody reads them any more.
            await asyncio.gather(reader, return_exceptions=True)
            answers.discard()

    async def drain(self, timeout: float) -> None:
        """Tells the scheduler that this executor is about to stop; returns when it has let go, or after `timeout`."""
        if self._stream is not None:
            self._ended.clear()
            self._answers.put(_DRAINING)
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._ended.wait()

    def end(self, timeout: float) -> bool:
        """Whether the step that runs was over within `timeout` seconds; call it when no stream is open any more."""
        return self._thread.end(timeout)

    async def _attach(self, attach: pb.Attach, context: _Context) -> None:
        if attach.epoch < self._epoch:
            await self._refuse(context, f"epoch {attach.epoch} is over")
        # A Redis that lost its last changes gives an epoch out again.
        if attach.epoch == self._epoch and attach.leader != self._leader:
            await self._refuse(context, f"epoch {attach.epoch} is that of {self._leader}")
        self._epoch, self._leader = attach.epoch, attach.leader
        self._num_attached += 1
        number = self._num_attached
        if self._stream is not None:
            self._stream.cancel()
        # Behind whatever step still runs for the stream before.
        await self._thread.reset()
        if number != self._num_attached:
            await self._end(context, grpc.StatusCode.ABORTED, "displaced")
        logger.info("attached to a scheduler of epoch %d", attach.epoch)

    async def _refuse(self, context: _Context, reason: str) -> None:
        logger.warning("a scheduler at %s is refused: %s", context.peer(), reason)
        await self._end(context, grpc.StatusCode.FAILED_PRECONDITION, reason)

    async def _end(self, context: _Context, code: grpc.StatusCode, reason: str) -> None:
        message = f"{reason}: this executor obeys epoch {self._epoch}"
        await context.abort(code, message, ((EPOCH_METADATA, str(self._epoch)),))

    async def _read(self, requests: AsyncIterator[pb.ExecuteRequest], answers: _Answers) -> None:
        """Starts each plan as it comes, so that the next waits on the thread while one runs."""
        try:
            async for request in requests:
                if request.HasField("prepare"):
                    answers.prepare(request.prepare, self._thread, self._executor.info)
                    continue
                if not request.HasField("plan"):
                    raise InvalidRequest("message", _kind(request), "must be a plan or prepare behind the attach")
                plan = wire.plan_from_proto(request.plan, self._executor.info, self._newest_step)
                self._newest_step = max(self._newest_step, plan.step)
                if plan.committed > self._committed:
                    self._committed, self._committed_epoch = plan.committed, self._epoch
                answers.launch(plan, self._thread)
        finally:
            answers.put(None)


def _kind(request: pb.ExecuteRequest | None) -> str | None:
    return None if request is None else request.WhichOneof("message")


def _look(done: Launched) -> None:
    if not done.cancelled():
        done.exception()
