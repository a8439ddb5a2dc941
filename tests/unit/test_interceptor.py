"""`RefusalInterceptor`: how calls end, and what is left of them."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from quire.engine.api.errors import InvalidRequest
from quire.services.common.server import serving
from quire.services.up.ports import LOOPBACK, free_port
from support.complaints import complaints

# The machine may be busy.
SECONDS = 60.0
# The interceptor looks methods up in the contract.
SERVICE = "quire.v1.InferenceService"
METHODS = ("Generate", "GenerateStream", "GenerateMany")


class Request:
    """Of a type that can be referred to weakly."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class Calls:
    """Methods that refuse "refused", and begin and never end any other request."""

    def __init__(self) -> None:
        self.seen: list[weakref.ref[Request]] = []
        self.has_begun = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        handlers = {
            "Generate": grpc.unary_unary_rpc_method_handler(self.unary, Request, bytes),
            "GenerateStream": grpc.unary_stream_rpc_method_handler(self.stream, Request, bytes),
            "GenerateMany": grpc.stream_stream_rpc_method_handler(self.both, Request, bytes),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])

    async def work(self, request: Request) -> None:
        self.seen.append(weakref.ref(request))
        if request.payload == b"refused":
            refuse(request)
        self.has_begun.set()
        await asyncio.Event().wait()

    async def unary(self, request: Request, context: Any) -> bytes:
        await self.work(request)
        return b""

    async def stream(self, request: Request, context: Any) -> AsyncIterator[bytes]:
        await self.work(request)
        yield b""

    async def both(self, requests: AsyncIterator[Request], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            await self.work(request)
        yield b""


def refuse(request: Request) -> None:
    """As an error that has another one for its cause."""
    try:
        int(request.payload)
    except ValueError as error:
        raise InvalidRequest("payload", "refused", "must be a number") from error


async def end_of(channel: grpc.aio.Channel, method: str, payload: bytes) -> tuple[grpc.StatusCode, str]:
    path = f"/{SERVICE}/{method}"
    call: Any
    if method == "Generate":
        call = channel.unary_unary(path)(payload)
    elif method == "GenerateStream":
        call = channel.unary_stream(path)(payload)
    else:
        call = channel.stream_stream(path)()
        await call.write(payload)
    return await call.code(), await call.details()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("no_collector")
async def test_a_refused_call_leaves_no_request_to_the_collector(method: str) -> None:
    place, calls = f"{LOOPBACK}:{free_port()}", Calls()
    async with (
        asyncio.timeout(SECONDS),
        serving(place, [], calls.register, grace=0),
        grpc.aio.insecure_channel(place) as channel,
    ):
        for _ in range(3):
            code, details = await end_of(channel, method, b"refused")
            assert (code, "must be a number" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        # The last one's task may not be over yet.
        assert [request() for request in calls.seen[:2]] == [None, None]


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_whose_service_ends_is_unavailable(method: str, caplog: pytest.LogCaptureFixture) -> None:
    place, calls = f"{LOOPBACK}:{free_port()}", Calls()
    async with asyncio.timeout(SECONDS), grpc.aio.insecure_channel(place) as channel:
        async with serving(place, [], calls.register, grace=0):
            ending = asyncio.create_task(end_of(channel, method, b"endless"))
            await calls.has_begun.wait()
        assert (await ending)[0] is grpc.StatusCode.UNAVAILABLE
    gc.collect()
    assert complaints(caplog) == []
