"""Who drives an executor when two schedulers want to."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from quire.engine.step import StepPlan
from quire.engine.step_thread import StepThread
from quire.internal.v1 import executor_pb2 as pb
from quire.internal.v1 import executor_pb2_grpc
from quire.services.executor.servicer import ExecutorServicer
from support.simulated_executor import SimulatedExecutor, executor_info


class BusyExecutor:
    """One that cannot be emptied before it may."""

    def __init__(self) -> None:
        self.info = executor_info(num_blocks=4)
        self.may_reset = threading.Event()

    def reset(self) -> None:
        assert self.may_reset.wait(60)


async def test_of_two_that_attach_during_a_step_the_later_one_drives() -> None:
    executor: Any = BusyExecutor()
    server = grpc.aio.server()
    servicer = ExecutorServicer(executor)
    executor_pb2_grpc.add_ExecutorServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = executor_pb2_grpc.ExecutorServiceStub(channel)
        calls = []
        for epoch in (5, 6):
            calls.append(stub.Execute())
            await calls[-1].write(pb.ExecuteRequest(attach=pb.Attach(epoch=epoch)))
            while servicer._num_attached < len(calls):
                await asyncio.sleep(0.01)
        executor.may_reset.set()
        assert (await calls[1].read()).HasField("info")
        with pytest.raises(grpc.aio.AioRpcError, match="displaced") as raised:
            await calls[0].read()
        assert raised.value.code() is grpc.StatusCode.ABORTED
        assert not calls[1].done()
        calls[1].cancel()
    await server.stop(0)


class Runner:
    """One that runs plans without a model."""

    def __init__(self) -> None:
        self.info = executor_info()
        self.reset()

    def reset(self) -> None:
        self._executor = SimulatedExecutor(self.info)

    def launch(self, plan: StepPlan) -> Any:
        result = self._executor.execute(plan)
        return SimpleNamespace(is_over=True, result=lambda: result)


async def test_it_tells_the_last_step_that_changed_blocks_and_its_epoch() -> None:
    executor: Any = Runner()
    server = grpc.aio.server()
    executor_pb2_grpc.add_ExecutorServiceServicer_to_server(ExecutorServicer(executor), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    told = []
    async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = executor_pb2_grpc.ExecutorServiceStub(channel)
        for epoch, step in ((5, 3), (6, 0), (7, 4), (8, 0)):
            call = stub.Execute()
            await call.write(pb.ExecuteRequest(attach=pb.Attach(epoch=epoch)))
            info = (await call.read()).info
            told.append((info.committed, info.committed_epoch))
            if step:
                await call.write(pb.ExecuteRequest(plan=pb.StepPlan(step=step, committed=step)))
                assert (await call.read()).result.step == step
            call.cancel()
    assert told == [(0, 0), (3, 5), (3, 5), (4, 7)]
    await server.stop(0)


class BusyStep:
    """An executor whose step ends when it may."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def launch(self, plan: Any) -> Any:
        self.began.set()
        assert self.may_end.wait(60)


async def test_the_process_waits_for_the_step_that_runs_and_for_no_other() -> None:
    executor: Any = BusyStep()
    none = np.empty(0, np.int32)
    plan = StepPlan(0, np.empty((0, 2), np.int32), (), none, none, none, none, none)
    thread = StepThread(executor)
    runs, waits = thread.launch(plan), thread.launch(plan)
    assert await asyncio.to_thread(executor.began.wait, 60)
    assert not thread.end(0.0)
    executor.may_end.set()
    assert thread.end(60.0)
    await runs
    with pytest.raises(asyncio.CancelledError):
        await waits
