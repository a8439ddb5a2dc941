"""A peer that hangs: its process is stopped, while its kernel still takes what is sent."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.protos.channel import CHANNEL_OPTIONS, Keepalive
from quire.services.common.channel import open_channel
from quire.services.common.server import serving
from quire.services.up.ports import LOOPBACK, free_port
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc
from support import hanging_peer

KEEPALIVE = Keepalive(seconds=1, timeout_seconds=1)
# By its own limit, a ping would take a minute.
SECONDS = 50.0


@asynccontextmanager
async def peer(role: str, address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that is ready, and is stopped by nobody yet."""
    script = Path(hanging_peer.__file__)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), role, address), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        await process.wait()


async def test_a_server_that_hangs_is_noticed() -> None:
    address = f"{LOOPBACK}:{free_port()}"
    async with peer("serve", address) as process, open_channel(address, KEEPALIVE) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await call.read()
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async with asyncio.timeout(SECONDS):
                await call.read()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


class Silent(inference_pb2_grpc.InferenceServiceServicer):
    """Sends nothing after its first message."""

    def __init__(self) -> None:
        self.has_ended = asyncio.Event()

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[pb.GenerateStreamResponse]:
        try:
            yield pb.GenerateStreamResponse()
            await asyncio.Event().wait()
        finally:
            self.has_ended.set()


async def test_a_client_that_hangs_is_noticed() -> None:
    address, servicer = f"{LOOPBACK}:{free_port()}", Silent()

    def register(server: grpc.aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)

    async with serving(address, [], register, grace=0, keepalive=KEEPALIVE), peer("listen", address) as process:
        process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(SECONDS):
            await servicer.has_ended.wait()


def test_by_default_a_hang_lasts_less_than_ten_seconds() -> None:
    options = dict(CHANNEL_OPTIONS)
    longest = max(options["grpc.keepalive_timeout_ms"], options["grpc.http2.ping_timeout_ms"])
    assert options["grpc.keepalive_time_ms"] + longest < 10_000
