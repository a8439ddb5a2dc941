"""The HTTP server against peers that send too much, too slowly or nothing, and that do not read."""

import asyncio
import errno
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from quire.engine.api.errors import Overloaded, RequestError
from quire.services.common.intake import Intake
from quire.services.common.metrics.meter import Meter
from quire.services.frontend.http.app import make_app
from quire.services.frontend.http.body import Body, read_body
from quire.services.frontend.http.disconnect import leave
from quire.services.frontend.http.errors import refuse
from quire.services.frontend.http.limits import HttpLimits
from quire.services.frontend.http.server import http_serving
from quire.services.frontend.metrics import METRICS
from quire.services.frontend.siblings import Siblings
from quire.services.frontend.workers_metrics import WorkersMetrics
from quire.services.up.ports import LOOPBACK, free_port

# The machine may be busy; nothing here waits for so long.
SECONDS = 60.0
LIMITS = HttpLimits(
    max_connections=100, max_header_bytes=2000, header_seconds=SECONDS, body_seconds=SECONDS,
    write_seconds=SECONDS,
)  # fmt: skip
SOON = 0.05
HEADER = b"POST / HTTP/1.1\r\nHost: a\r\n"


class Server:
    """A running server whose app reads bodies, waits, or writes for ever."""

    def __init__(self) -> None:
        self.place = f"{LOOPBACK}:{free_port()}"
        self.num_waiting = 0
        self.may_answer = asyncio.Event()
        self.has_stopped_writing = asyncio.Event()
        handlers = {ClientDisconnect: leave, RequestError: refuse}
        routes = [
            Route("/", self.read, methods=["POST"]),
            Route("/wait", self.wait),
            Route("/endless", lambda request: StreamingResponse(self.write())),
        ]
        self.app = Starlette(routes=routes, exception_handlers=handlers)
        self.app.state.intake = Intake(max_bytes=1000)

    async def read(self, request: Request) -> Response:
        await read_body(request, Body)
        return PlainTextResponse("read")

    async def wait(self, request: Request) -> Response:
        self.num_waiting += 1
        await self.may_answer.wait()
        return PlainTextResponse("waited")

    async def write(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"a" * 65536
                # To a client that has left, nothing is waited for.
                await asyncio.sleep(0)
        finally:
            self.has_stopped_writing.set()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.place.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def answer(self, *parts: bytes) -> tuple[int, bytes]:
        """Sends the parts, and reads until the server ends the connection: status and body; 0 if none came."""
        reader, writer = await self.connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
            # They come apart.
            await asyncio.sleep(SOON)
        return await until_end(reader, writer)


async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
    async with asyncio.timeout(SECONDS):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]) if head else 0, body


@asynccontextmanager
async def serving(caplog: pytest.LogCaptureFixture, limits: HttpLimits = LIMITS) -> AsyncIterator[Server]:
    """Nothing but what a test expects may be logged."""
    server = Server()
    with caplog.at_level(logging.WARNING):
        async with http_serving(server.place, server.app, limits, grace=1):
            yield server
            server.may_answer.set()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_silent_connection_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(caplog, replace(LIMITS, header_seconds=SOON)) as server:
        assert await server.answer() == (0, b"")


async def test_a_header_that_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(caplog, replace(LIMITS, header_seconds=8 * SOON)) as server:
        status, body = await server.answer(*[HEADER[i : i + 1] for i in range(4)])
    assert (status, json.loads(body)["error"]["message"]) == (408, "header: it has not come in time")


async def test_a_body_that_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(caplog, replace(LIMITS, body_seconds=4 * SOON)) as server:
        status, body = await server.answer(HEADER + b"Content-Length: 9\r\n\r\n", b"1", b"2")
    assert (status, json.loads(body)["error"]["message"]) == (408, "body: it has not come in time")


async def test_a_second_request_has_its_own_time(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(caplog, replace(LIMITS, header_seconds=4 * SOON)) as server:
        status, body = await server.answer(HEADER + b"Content-Length: 2\r\n\r\n{}", HEADER)
    assert status == 200
    assert b"HTTP/1.1 408" in body


@pytest.mark.parametrize(
    "parts",
    [
        (HEADER + b"X: " + b"a" * 3000 + b"\r\n\r\n",),
        (HEADER + b"X: " + b"a" * 1500, b"a" * 1500),
        (b"GET /" + b"a" * 3000,),
        (HEADER + b"X: a\r\n" * 200 + b"\r\n",),
    ],
)
async def test_a_header_that_is_too_large(caplog: pytest.LogCaptureFixture, parts: tuple[bytes, ...]) -> None:
    async with serving(caplog) as server:
        status, body = await server.answer(*parts)
    assert (status, json.loads(body)["error"]["message"]) == (431, "header: must be at most 2000 bytes in 128 fields")


@pytest.mark.parametrize(
    "request_parts",
    [
        (HEADER + b"Content-Length: 1001\r\nConnection: close\r\n\r\n",),
        (HEADER + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n", b"3e9\r\n" + b" " * 1001),
    ],
)
async def test_a_body_that_is_too_large(caplog: pytest.LogCaptureFixture, request_parts: tuple[bytes, ...]) -> None:
    async with serving(caplog) as server:
        status, _ = await server.answer(*request_parts)
    assert status == 413


async def test_a_client_that_leaves_while_it_sends_its_body(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(caplog) as server:
        _, writer = await server.connect()
        writer.write(HEADER + b"Content-Length: 9\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await server.answer(HEADER + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"))[0] == 200


async def test_who_waits_longest_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(caplog, replace(LIMITS, max_connections=2)) as server:
        first, second = [await server.connect() for _ in range(2)]
        third = await server.connect()
        assert await until_end(*first) == (0, b"")
        for each in (second, third):
            each[1].write(b"GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(SECONDS):
            while server.num_waiting < 2:
                await asyncio.sleep(0.01)
        assert (await server.answer())[0] == 503
        server.may_answer.set()
        assert [await until_end(*each) for each in (second, third)] == [(200, b"waited")] * 2


async def test_no_file_left_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    failures, accept = 5, socket.socket.accept

    def fail(listener: socket.socket) -> tuple[socket.socket, object]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", fail)
    async with serving(caplog) as server:
        assert (await server.answer(HEADER + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"))[0] == 200
    found = [record.getMessage() for record in caplog.records]
    assert found == ["a connection cannot be accepted: Too many open files"]


async def test_who_does_not_read_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(caplog, replace(LIMITS, write_seconds=SOON)) as server:
        _, writer = await server.connect()
        writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(SECONDS):
            await server.has_stopped_writing.wait()
        writer.close()


def measured() -> WorkersMetrics:
    return WorkersMetrics(Meter(METRICS, {}), Siblings())


async def test_overload_is_refused_before_the_body_is_read() -> None:
    class Full:
        def admit(self) -> None:
            raise Overloaded("full", 35.5)

    server = Server()
    server.app = make_app(Full(), None, Intake(), measured())  # type: ignore[arg-type]
    async with http_serving(server.place, server.app, LIMITS, grace=1), asyncio.timeout(SECONDS):
        reader, writer = await server.connect()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        writer.close()
    assert head.startswith(b"http/1.1 429")
    assert b"retry-after: 36\r\n" in head


def test_the_api_lets_a_client_that_leaves_go() -> None:
    """What the tests above do with their own app."""
    app = make_app(None, None, Intake(), measured())  # type: ignore[arg-type]
    assert app.exception_handlers[ClientDisconnect] is leave
