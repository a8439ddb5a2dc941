"""An HTTP server that leaves: whoever is there is told so, and no request on its way is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from quire.services.frontend.http.limits import HttpLimits
from quire.services.frontend.http.server import HttpServer, http_serving
from quire.services.up.ports import LOOPBACK, free_port

LIMITS = HttpLimits(100, 2000, 60.0, 60.0, 60.0)
# Of a server that waits for a request on its way, and of a test that hangs.
PATIENT, SECONDS = 60.0, 60.0
GET = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class App:
    """Answers at once, or in two parts of which the second has to be allowed."""

    def __init__(self) -> None:
        self.place = f"{LOOPBACK}:{free_port()}"
        self.may_end = asyncio.Event()
        self.app = Starlette(routes=[Route("/now", self.now), Route("/stream", self.stream)])

    async def now(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("now")

    async def stream(self, request: Request) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun"
            await self.may_end.wait()
            yield b"ended"

        return StreamingResponse(parts())

    async def connect(self) -> Connection:
        return await asyncio.open_connection(*self.place.split(":"))


@asynccontextmanager
async def running() -> AsyncIterator[tuple[App, HttpServer]]:
    app = App()
    async with asyncio.timeout(SECONDS), http_serving(app.place, app.app, LIMITS, grace=1) as server:
        yield app, server


async def head(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readuntil(b"\r\n\r\n")).lower()


async def until_refused(app: App) -> None:
    """Returns when nobody listens any more."""
    while True:
        try:
            _, writer = await app.connect()
        except ConnectionRefusedError:
            return
        writer.close()
        await asyncio.sleep(0.01)


async def test_a_connection_that_is_used_has_one_more_answer_which_says_that_it_closes() -> None:
    async with running() as (app, server):
        reader, writer = await app.connect()
        writer.write(GET % b"now")
        assert b"connection: close" not in await head(reader)
        await reader.readexactly(3)
        leaving = asyncio.create_task(server.leave(PATIENT))
        await until_refused(app)
        writer.write(GET % b"now")
        assert b"\r\nconnection: close\r\n" in await head(reader)
        assert await reader.read() == b"now"
        writer.close()
        # Not before: the request was on its way.
        await leaving
        assert server.num_connections == 0


async def test_a_connection_that_waited_to_be_taken_is_answered() -> None:
    async with running() as (app, server):
        connections = [await app.connect() for _ in range(20)]
        for _, writer in connections:
            writer.write(GET % b"now")
        # Nothing has run since that could have accepted them all.
        await server.leave(PATIENT)
        for reader, writer in connections:
            assert (await head(reader)).startswith(b"http/1.1 200")
            assert await reader.read() == b"now"
            writer.close()


async def test_a_connection_without_a_request_is_closed() -> None:
    async with running() as (app, server):
        reader, writer = await app.connect()
        while not server.num_connections:
            await asyncio.sleep(0.01)
        await server.leave(0.1)
        assert await reader.read() == b""
        writer.close()


async def test_an_answer_that_had_begun_ends_and_its_connection_closes_then() -> None:
    async with running() as (app, server):
        reader, writer = await app.connect()
        writer.write(GET % b"stream")
        assert b"connection: close" not in await head(reader)
        await server.leave(0.1)
        app.may_end.set()
        assert (await reader.read()).endswith(b"ended\r\n0\r\n\r\n")
        writer.close()
