"""Who drives an executor when two schedulers want to."""

import asyncio
import threading
from typing import Any

import grpc
import pytest

from quire.internal.v1 import executor_pb2 as pb
from quire.internal.v1 import executor_pb2_grpc
from quire.services.executor.servicer import ExecutorServicer
from support.simulated_executor import executor_info


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
