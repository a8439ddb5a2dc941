"""Wrong messages between services: each is answered with a status and a line in the log, and harms nothing else."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import grpc
import numpy as np
import pytest
from redis.asyncio import Redis

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig, SchedulerConfig
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.executor import Executor
from quire.engine.logprobs import pack
from quire.engine.preparation import Preparation, StructurePreparation
from quire.engine.resources.ledger.lease import Term
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.step import ExecutorInfo, StepPlan
from quire.internal.v1 import executor_pb2, executor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from quire.services.common import wire
from quire.services.common.security import log_refusal
from quire.services.common.server import serving
from quire.services.common.targets import Targets
from quire.services.executor.servicer import ExecutorServicer
from quire.services.frontend import scheduler_stream
from quire.services.frontend.observer import FrontendObserver
from quire.services.frontend.scheduler_link import SchedulerLink
from quire.services.scheduler import supervisor
from quire.services.scheduler.adapters import Adapters
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.kv_events import KVEvents
from quire.services.scheduler.leadership import Leadership
from quire.services.scheduler.servicer import SchedulerServicer
from quire.services.scheduler.supervisor import Supervisor
from quire.services.scheduler.watch.journal import Journal
from quire.services.scheduler.watch.watch import Watch
from quire.services.up.ports import LOOPBACK, free_port, free_ports
from support.forgery import forged
from support.internal_messages import good_plans, good_submission, ints
from support.mutation import mutated
from support.simulated_executor import VOCAB_SIZE, SimulatedExecutor, executor_info

pytestmark = pytest.mark.timeout(300)

SECONDS = 250.0
Forge = Callable[[Any, random.Random], Any]
ALLOWED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
INFO = executor_info(num_blocks=64)


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    gc.collect()
    # asyncio and grpc log what nobody has handled.
    unhandled = [each for each in caplog.records if each.exc_info or each.name.startswith(("asyncio", "grpc"))]
    assert [each.getMessage() for each in unhandled] == []


# ── plans, to a real executor ──


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
        serving(address, [], register, grace=0, on_refusal=log_refusal),
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
        lines = [record for record in caplog.records if "is refused: " in record.getMessage()]
        assert len(lines) == num_refused > 500
        for epoch in (2**32 + 2, 2**53, 2**53 + 1, 2**63, 2**64 - 1):
            _, call = await execute(stub, epoch, [])
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "attach.epoch" in await call.details()
        plan = good_plans(1)[0]
        plan.committed = 2**64 - 1
        _, call = await execute(stub, 1, [plan])
        assert (await call.details()).startswith("committed: must be 0 to 1")
        # More than the pool has blocks: the step would take seconds.
        plan = good_plans(1)[0]
        plan.copies = b"\0" * 400_000
        _, call = await execute(stub, 1, [plan])
        assert (await call.details()).startswith("copies: must not copy to a block twice")
        plan = good_plans(1)[0]
        plan.starts[0].sampling.min_tokens = 2**31 - 1
        _, call = await execute(stub, 1, [plan])
        assert await call.code() is grpc.StatusCode.OK
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

    def prepare(self, preparation: Preparation) -> None:
        if isinstance(preparation, StructurePreparation) and preparation.structure.regex is None:
            raise InvalidRequest("structured_output", preparation, "must be a regular expression")

    def examine(self, name: str, path: str) -> Adapter:
        raise InvalidRequest("adapter", name, f"must be a PEFT folder: {path}")

    def launch(self, plan: StepPlan) -> Any:
        result = self._executor.execute(plan)
        return type("Pending", (), {"is_over": True, "result": lambda self: result})()


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


async def failures(stub: Any, submission: scheduler_pb2.Submission) -> list[str]:
    """What a request alone is refused with."""
    found: list[str] = []

    def is_over(response: scheduler_pb2.ConnectResponse) -> bool:
        found.extend(each.message for each in response.output.failed)
        return bool(found)

    call = await converse(stub, scheduler_pb2.ConnectRequest(submissions=[submission]), is_over)
    assert await call.code() is grpc.StatusCode.OK
    return found


async def test_a_scheduler_refuses_wrong_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.01)
    place, chance = [f"{LOOPBACK}:{port}" for port in islice(free_ports(), 2)], random.Random(2)
    dispatcher, ledger, runner = Dispatcher(epoch=1), MemoryLedger(), Runner()
    executor_servicer = ExecutorServicer(runner)  # type: ignore[arg-type]

    def register_executor(server: grpc.aio.Server) -> None:
        executor_pb2_grpc.add_ExecutorServiceServicer_to_server(executor_servicer, server)

    def register_scheduler(server: grpc.aio.Server) -> None:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(SchedulerServicer(leadership), server)

    leadership = Leadership()
    adapters = Adapters(Redis(), lambda: dispatcher.open_executors, dispatcher.serve_adapters)
    with leadership.lead(dispatcher, Watch(dispatcher, Journal()), adapters):
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
            for field in ("seed", "max_tokens"):
                unfinished = good_submission(1)
                unfinished.sampling.ClearField(field)
                assert await failures(stub, unfinished) == [f"sampling.{field}: must be set, got None"]
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

    def __init__(self, num_bad: int, forge: Forge) -> None:
        self._forge, self._chance = forge, random.Random(3)
        self.num_left = num_bad

    async def Execute(self, request_iterator: Any, context: Any) -> AsyncIterator[executor_pb2.ExecuteResponse]:
        await anext(aiter(request_iterator))
        self.num_left -= 1
        chance, place = self._chance, self._chance.randrange(4) if self.num_left >= 0 else -1
        # It has forgotten the blocks of the stream before.
        info = replace(INFO, incarnation=str(self.num_left))
        message = executor_pb2.ExecuteResponse(info=wire.info_to_proto(info))
        if place == 0:
            message = self._forge(message, chance)
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
                message = self._forge(message, chance)
            yield message
            if message.HasField("draining"):
                # The result that it took the place of would be waited for.
                return


@pytest.mark.parametrize(("forge", "count"), [(mutated, 400), pytest.param(forged, 4000, marks=pytest.mark.long)])
async def test_a_bad_executor_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, forge: Forge, count: int
) -> None:
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.0)
    address, servicer, dispatcher = f"{LOOPBACK}:{free_port()}", BadExecutor(count, forge), Dispatcher(epoch=1)

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
    assert sum("sent what it must not" in record.getMessage() for record in caplog.records) > count // 4


# ── step outputs, from a bad scheduler ──


class BadScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Sends something wrong in the first streams, then what is right."""

    def __init__(self, num_bad: int, forge: Forge) -> None:
        self._forge, self._chance = forge, random.Random(4)
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
                yield self._forge(good, self._chance)
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


@pytest.mark.parametrize(("forge", "count"), [(mutated, 800), pytest.param(forged, 4000, marks=pytest.mark.long)])
async def test_a_frontend_leaves_a_bad_scheduler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, forge: Forge, count: int
) -> None:
    monkeypatch.setattr(scheduler_stream, "RETRY_SECONDS", 0.0)
    address, servicer = f"{LOOPBACK}:{free_port()}", BadScheduler(count, forge)

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
    assert sum("sent what it must not" in record.getMessage() for record in caplog.records) > count // 4
