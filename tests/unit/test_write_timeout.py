"""A gRPC client that does not read what its call brings."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from quire.services.common.server import serving
from quire.services.up.ports import LOOPBACK, free_port
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc
from support.complaints import complaints

# The machine may be busy.
SECONDS = 60.0


class Endless(inference_pb2_grpc.InferenceServiceServicer):
    """Streams for ever."""

    def __init__(self) -> None:
        self.has_ended = asyncio.Event()

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[pb.GenerateStreamResponse]:
        try:
            while True:
                yield pb.GenerateStreamResponse(text="a" * 65536)
        finally:
            self.has_ended.set()


async def read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_its_call_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    place, servicer = f"{LOOPBACK}:{free_port()}", Endless()

    def register(server: grpc.aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)

    async with (
        asyncio.timeout(SECONDS),
        serving(place, [], register, grace=0, write_seconds=0.1),
        grpc.aio.insecure_channel(place) as channel,
    ):
        call = inference_pb2_grpc.InferenceServiceStub(channel).GenerateStream(pb.GenerateRequest())
        await call.read()
        await servicer.has_ended.wait()
        # It may read on, and finds out why no more comes.
        with pytest.raises(grpc.aio.AioRpcError, match="unread for"):
            await read_all(call)
    assert complaints(caplog) == []
