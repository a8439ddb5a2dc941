"""Wrong messages between services: each is answered with a status and a line in the log, and harms nothing else."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.options import CacheParams, RequestOptions, Retention
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.config import ExecutorConfig, SchedulerConfig
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.executor import Executor
from quire.engine.logprobs import pack
from quire.engine.open_request import OpenRequest
from quire.engine.resources.ledger.lease import Term
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.step import ExecutorInfo, StepPlan
from quire.internal.v1 import executor_pb2, executor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from quire.services.common import wire
from quire.services.common.server import serving
from quire.services.common.targets import Targets
from quire.services.executor.servicer import ExecutorServicer
from quire.services.frontend import scheduler_stream
from quire.services.frontend.observer import FrontendObserver
from quire.services.frontend.scheduler_link import SchedulerLink
from quire.services.scheduler import supervisor
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.kv_events import KVEvents
from quire.services.scheduler.leadership import Leadership
from quire.services.scheduler.servicer import SchedulerServicer
from quire.services.scheduler.supervisor import Supervisor
from quire.services.scheduler.watch.journal import Journal
from quire.services.scheduler.watch.watch import Watch
from quire.services.up.stack import LOOPBACK, free_port
from support.mutation import mutated
from support.simulated_executor import VOCAB_SIZE, SimulatedExecutor, executor_info
from support.starts import sequence_start

pytestmark = pytest.mark.timeout(300)

SECONDS = 60.0
ALLOWED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
INFO = executor_info(num_blocks=64)


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    gc.collect()
    # asyncio and grpc log what nobody has handled.
    unhandled = [each for each in caplog.records if each.exc_info or each.name.startswith(("asyncio", "grpc"))]
    assert [each.getMessage() for each in unhandled] == []


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


# ── plans, to a real executor ──


def good_plans(step: int) -> list[executor_pb2.StepPlan]:
    """Two that use every field."""
    first = sequence_start(
        0, [5, 6, 7], [1], num_prompt=2, temperature=0.8, top_k=5, top_p=0.9, min_p=0.1, seed=7, presence_penalty=0.5,
        frequency_penalty=0.5, repetition_penalty=1.1, logprobs=2, prompt_logprobs=1, logit_bias={5: 1.0},
        bad_words_ids=((5, 6), (7,)), allowed_token_ids=(5, 6, 7), stop_token_ids=(8,), min_tokens=1,
        no_repeat_ngram_size=2, typical_p=0.9,
    )  # fmt: skip
    second = sequence_start(1, range(5, 22), [2, 3], 16)
    nothing = np.empty((0, 2), np.int32)
    plans = (
        StepPlan(step, nothing, (first,), ints(0), ints(4), ints(0), ints(3), ints(), step),
        StepPlan(step + 1, ints(1, 2).reshape(1, 2), (second,), ints(), ints(), ints(1), ints(1), ints(0), step),
    )
    return [wire.plan_to_proto(plan) for plan in plans]


async def execute(stub: Any, epoch: int, plans: list[executor_pb2.StepPlan]) -> tuple[list[Any], Any]:
    """What one stream brings, and its status. Nothing is written that may cross the stream's end: gRPC's client would
    report that write instead of the server's status.
    """
    call, found = stub.Execute(), []
    messages = [executor_pb2.ExecuteRequest(attach=executor_pb2.Attach(epoch=epoch))]
    messages += [executor_pb2.ExecuteRequest(plan=plan) for plan in plans]
    with suppress(grpc.aio.AioRpcError):
        for message in messages:
            await call.write(message)
            if (answer := await call.read()) is grpc.aio.EOF:
                return found, call
            found.append(answer)
        await call.done_writing()
        await call.read()
    return found, call


async def test_an_executor_refuses_wrong_plans_and_epochs(caplog: pytest.LogCaptureFixture) -> None:
    config = ExecutorConfig(model=str(DEMO_MODEL), num_blocks=8, max_batch_size=4, device="cpu", dtype="float32")
    address, chance = f"{LOOPBACK}:{free_port()}", random.Random(1)
    servicer = ExecutorServicer(Executor(config))

    def register(server: grpc.aio.Server) -> None:
        executor_pb2_grpc.add_ExecutorServiceServicer_to_server(servicer, server)

    async with (
        asyncio.timeout(SECONDS),
        serving(address, [], register, grace=0),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = executor_pb2_grpc.ExecutorServiceStub(channel)
        num_refused = 0
        for _ in range(1500):
            plans = good_plans(1)
            index = chance.randrange(2)
            plans[index] = mutated(plans[index], chance)
            _, call = await execute(stub, 1, plans)
            assert await call.code() in ALLOWED, (await call.details(), plans[index])
            num_refused += await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        lines = [record for record in caplog.records if "stream is ended" in record.getMessage()]
        assert len(lines) == num_refused > 500
        for epoch in (2**53 + 1, 2**63, 2**64 - 1):
            _, call = await execute(stub, epoch, [])
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "attach.epoch" in await call.details()
        plan = good_plans(1)[0]
        plan.committed = 2**64 - 1
        _, call = await execute(stub, 1, [plan])
        assert (await call.details()).startswith("committed: must be 0 to 1")
        found, call = await execute(stub, 2, good_plans(3))
        assert [each.WhichOneof("message") for each in found] == ["info", "result", "result"]
        assert found[0].info.committed < 2**53
        assert await call.code() is grpc.StatusCode.OK


# ── submissions and cancels, to a real scheduler ──


class Runner:
    """An executor without a model behind a real stream."""

    def __init__(self, info: ExecutorInfo = INFO) -> None:
        self.info = info
        self.reset()

    def reset(self) -> None:
        self._executor = SimulatedExecutor(self.info)

    def prepare(self, structure: StructuredOutput) -> None:
        if structure.regex is None:
            raise InvalidRequest("structured_output", structure, "must be a regular expression")

    def launch(self, plan: StepPlan) -> Any:
        result = self._executor.execute(plan)
        return type("Pending", (), {"is_over": True, "result": lambda self: result})()


def good_submission(handle: int) -> scheduler_pb2.Submission:
    """One that uses every field."""
    params = SamplingParams(
        seed=1, max_tokens=9, temperature=0.5, top_k=2, top_p=0.9, min_p=0.1, stop_token_ids=(3,), ignore_eos=True,
        presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.5,
        structured_output=StructuredOutput(regex="a"),
    )  # fmt: skip
    options = RequestOptions(1, CacheParams("salt", retention=(Retention(0, 4, 50, 1000),)))
    request = OpenRequest(handle, str(handle), ints(1, 2, 4), params, options, interval=2)
    request.generated.extend([5, 6])
    return wire.submission_to_proto(request, resumed=True)


async def converse(stub: Any, message: scheduler_pb2.ConnectRequest, until: Callable[[Any], bool] | None) -> Any:
    call = stub.Connect()
    try:
        await call.write(message)
        if until is None:
            await call.done_writing()
        async for response in call:
            if until is not None and until(response):
                await call.done_writing()
                until = None
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    return call


async def test_a_scheduler_refuses_wrong_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.01)
    place, chance = [f"{LOOPBACK}:{free_port()}" for _ in range(2)], random.Random(2)
    dispatcher, ledger, runner = Dispatcher(epoch=1), MemoryLedger(), Runner()
    executor_servicer = ExecutorServicer(runner)  # type: ignore[arg-type]

    def register_executor(server: grpc.aio.Server) -> None:
        executor_pb2_grpc.add_ExecutorServiceServicer_to_server(executor_servicer, server)

    def register_scheduler(server: grpc.aio.Server) -> None:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(SchedulerServicer(leadership), server)

    leadership = Leadership()
    with leadership.lead(dispatcher, Watch(dispatcher, Journal())):
        async with (
            asyncio.timeout(SECONDS),
            serving(place[0], [], register_executor, grace=0),
            serving(place[1], [], register_scheduler, grace=0),
            grpc.aio.insecure_channel(place[1]) as channel,
        ):
            driving = asyncio.create_task(
                Supervisor(place[0], SchedulerConfig(), ledger, Term(1, "one"), dispatcher, KVEvents()).run()
            )
            while not dispatcher.is_serving:
                await dispatcher.changed()
            stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            good = scheduler_pb2.ConnectRequest(
                frontend="one", submissions=[good_submission(1), good_submission(2)], cancels=[2, 3]
            )
            for _ in range(1500):
                message = mutated(good, chance)
                call = await converse(stub, message, None)
                assert await call.code() in ALLOWED, (await call.details(), message)
            bad = good_submission(1)
            bad.handle = 2**31
            call = await converse(stub, scheduler_pb2.ConnectRequest(submissions=[bad]), None)
            assert (await call.details()).startswith("handle: must be 0 to")
            finished: list[Any] = []
            call = await converse(
                stub,
                scheduler_pb2.ConnectRequest(submissions=[good_submission(1)]),
                lambda response: bool(finished.extend(response.output.finished)) or bool(response.output.finished),
            )
            assert [each.handle for each in finished] == [1]
            driving.cancel()
            await asyncio.wait((driving,))


# ── descriptions and results, from a bad executor ──


class BadExecutor(executor_pb2_grpc.ExecutorServiceServicer):
    """Sends something wrong in the first streams, then what is right."""

    def __init__(self, num_bad: int) -> None:
        self._chance = random.Random(3)
        self.num_left = num_bad

    async def Execute(self, request_iterator: Any, context: Any) -> AsyncIterator[executor_pb2.ExecuteResponse]:
        await anext(aiter(request_iterator))
        self.num_left -= 1
        chance, place = self._chance, self._chance.randrange(4) if self.num_left >= 0 else -1
        # It has forgotten the blocks of the stream before.
        info = replace(INFO, incarnation=str(self.num_left))
        message = executor_pb2.ExecuteResponse(info=wire.info_to_proto(info))
        if place == 0:
            message = mutated(message, chance)
        yield message
        if place == 0:
            return
        runner = Runner(info)
        async for request in request_iterator:
            if request.HasField("prepare"):
                prepared = wire.prepared_to_proto(request.prepare.number, None)
                message = executor_pb2.ExecuteResponse(prepared=prepared)
            else:
                plan = wire.plan_from_proto(request.plan, info, 0)
                result = runner.launch(plan).result()
                message = executor_pb2.ExecuteResponse(result=wire.result_to_proto(result))
                entry = TokenLogprobs(-1.0, (1, 2), (-1.0, -2.0))
                logprobs = [(slot, entry) for slot in result.slots.tolist()]
                if logprobs and self.num_left >= 0:
                    message.result.logprobs.CopyFrom(wire.logprobs_to_proto(pack(logprobs)))
            if self.num_left >= 0:
                message = mutated(message, chance)
            yield message
            if message.HasField("draining"):
                # The result that it took the place of would be waited for.
                return


async def test_a_bad_executor_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.0)
    address, servicer, dispatcher = f"{LOOPBACK}:{free_port()}", BadExecutor(400), Dispatcher(epoch=1)

    def register(server: grpc.aio.Server) -> None:
        executor_pb2_grpc.add_ExecutorServiceServicer_to_server(servicer, server)

    async with asyncio.timeout(SECONDS), serving(address, [], register, grace=0):
        driving = asyncio.create_task(
            Supervisor(address, SchedulerConfig(), MemoryLedger(), Term(1, "one"), dispatcher, KVEvents()).run()
        )
        stream, handle = dispatcher.connect(), 0
        while servicer.num_left >= 0 or stream.sequences:
            assert not driving.done(), driving.exception()
            if not stream.sequences:
                handle += 1
                submission = good_submission(handle)
                submission.resumed = False
                dispatcher.submit(stream, wire.submission_from_proto(stream.client, submission))
            await stream.next()
            await asyncio.sleep(0)
        driving.cancel()
        await asyncio.wait((driving,))
    assert sum("sent what it must not" in record.getMessage() for record in caplog.records) > 100


# ── step outputs, from a bad scheduler ──


class BadScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Sends something wrong in the first streams, then what is right."""

    def __init__(self, num_bad: int) -> None:
        self._chance = random.Random(4)
        self.num_left = num_bad
        self.state = scheduler_pb2.ServingState(
            epoch=1, num_executors=1, vocab_size=VOCAB_SIZE, max_model_len=64, num_blocks=64, block_size=4
        )

    async def Connect(self, request_iterator: Any, context: Any) -> AsyncIterator[scheduler_pb2.ConnectResponse]:
        self.num_left -= 1
        await anext(aiter(request_iterator))
        yield scheduler_pb2.ConnectResponse(state=self.state)
        if self.num_left >= 0:
            for good in (scheduler_pb2.ConnectResponse(state=self.state), self._output([7, 8])):
                yield mutated(good, self._chance)
            return
        async for request in request_iterator:
            yield self._output([each.handle for each in request.submissions])

    def _output(self, handles: list[int]) -> scheduler_pb2.ConnectResponse:
        entry = TokenLogprobs(-1.0, (1, 2), (-1.0, -2.0))
        output = scheduler_pb2.StepOutput(
            handles=wire.pack(handles), token_ids=wire.pack([3] * len(handles)),
            started_handles=wire.pack(handles), cached_tokens=wire.pack([0] * len(handles)),
            queue_seconds=np.full(len(handles), 0.5, "<f4").tobytes(),
            finished=[scheduler_pb2.SequenceFinished(handle=each, reason=2, stop_token_id=3) for each in handles],
            failed=[scheduler_pb2.SequenceFailed(handle=9, code=14, message="gone", retryable=True, retry_ms=9)],
            logprobs=wire.logprobs_to_proto(pack([(each, entry) for each in handles])),
        )  # fmt: skip
        return scheduler_pb2.ConnectResponse(output=output, queue=scheduler_pb2.QueueState(room=9, retry_ms=9))


async def test_a_frontend_leaves_a_bad_scheduler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scheduler_stream, "RETRY_SECONDS", 0.0)
    address, servicer = f"{LOOPBACK}:{free_port()}", BadScheduler(800)

    def register(server: grpc.aio.Server) -> None:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server)

    async with asyncio.timeout(SECONDS), serving(address, [], register, grace=0):
        link = SchedulerLink(Targets(address), "one", 8, "", observers=[FrontendObserver()], failover_seconds=0)
        running = asyncio.create_task(link.run())
        while servicer.num_left >= 0 or link.unavailable_reason is not None:
            assert not running.done(), running.exception()
            await link.state_changed()
        request = link.submit("good", ints(5), SamplingParams(seed=0, max_tokens=9))
        while not request.is_over:
            await request.wait()
        assert request.take() == [3]
        running.cancel()
        await asyncio.wait((running,))
    assert sum("sent what it must not" in record.getMessage() for record in caplog.records) > 200
