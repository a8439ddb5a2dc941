"""`InferenceServicer`: a request counts as open until its call has ended."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from quire.engine.api.completion import Completion, FinishReason
from quire.engine.api.errors import Unavailable
from quire.services.common.server import serving
from quire.services.frontend.servicer import InferenceServicer
from quire.services.up.ports import LOOPBACK, free_port
from quire.v1 import inference_pb2 as pb

# The machine may be busy.
SECONDS = 60.0


class OneRequest:
    """In place of `Inference`: answers a request, or fails it."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self.is_open = False
        self.has_closed = asyncio.Event()

    async def prepare(self, *args: object, **options: object) -> str:
        return "prepared"

    def open_choices(self, *args: object, **options: object) -> list[str]:
        self.is_open = True
        return ["request"]

    async def follow(self, request: str) -> AsyncIterator[Completion]:
        if self._error is not None:
            raise self._error
        yield Completion("text", (1,), FinishReason.LENGTH, None, None, "")

    def close(self, request: str) -> None:
        self.is_open = False
        self.has_closed.set()


@pytest.mark.parametrize("error", [None, Unavailable("gone")], ids=["answered", "failed"])
async def test_a_whole_answer_counts_until_it_is_sent(error: Exception | None) -> None:
    inference: Any = OneRequest(error)
    place, open_when_sent = f"{LOOPBACK}:{free_port()}", list[bool]()

    def serialize(response: pb.GenerateResponse) -> bytes:
        # gRPC does so when the handler has returned.
        open_when_sent.append(inference.is_open)
        return response.SerializeToString()

    def register(server: grpc.aio.Server) -> None:
        generate = grpc.unary_unary_rpc_method_handler(
            InferenceServicer(inference).Generate, pb.GenerateRequest.FromString, serialize
        )
        handlers = {"Generate": generate}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("quire.v1.InferenceService", handlers)])

    async with (
        asyncio.timeout(SECONDS),
        serving(place, [], register, grace=0),
        grpc.aio.insecure_channel(place) as channel,
    ):
        request = pb.GenerateRequest(text="a").SerializeToString()
        code = await channel.unary_unary("/quire.v1.InferenceService/Generate")(request).code()
        assert code is (grpc.StatusCode.UNAVAILABLE if error else grpc.StatusCode.OK)
        await inference.has_closed.wait()
    assert open_when_sent == ([] if error else [True])
