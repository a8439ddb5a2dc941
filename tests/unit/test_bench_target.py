"""Servers under load that are not there, or answer nonsense: a line or a counted failure, never a traceback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from quire.clients.bench.target.base import Exchange
from quire.clients.bench.target.choose import open_target
from quire.clients.bench.target.grpc import GrpcTarget
from quire.clients.bench.target.http import HttpTarget
from quire.engine.api.errors import QuireError, StartupError, Unavailable
from quire.services.cli import main
from quire.v1 import inference_pb2 as pb


def opened(url: str) -> GrpcTarget | HttpTarget:
    found = open_target(url, None, True, 0.0, 5.0, False)
    assert isinstance(found, (GrpcTarget, HttpTarget))
    return found


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where somebody listens who says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """The address of a server that gives everybody these bytes and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def ok(body: bytes, kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "grpc://host:1", "grpc://host:1/"])
async def test_an_address_alone_is_a_frontend(url: str) -> None:
    target = opened(url)
    assert isinstance(target, GrpcTarget)
    await target.close()


@pytest.mark.parametrize(
    "url",
    [
        *("", ":8001", "host", "host:", "host:x", "host:0", "host:99999", "a b:1", "host:1/v1", "[::1:1", "unix:/a"),
        *("grpc://", "grpc://host", "ftp://host:1", "http://", "http://:1", "http://host:99999", "http://a b", "://h:1"),
    ],
)  # fmt: skip
async def test_what_is_no_target(url: str) -> None:
    with pytest.raises(StartupError, match=r"^--target .*: must be host:port, grpc://host:port or grpcs://"):
        open_target(url, None, True, 0.0, 5.0, False)


@pytest.mark.parametrize("scheme", ["", "grpc://", "http://"])
def test_nobody_listens(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", f"--target={scheme}127.0.0.1:1", "--no-progress"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("quire bench serve: error: ")
    assert "127.0.0.1:1" in line


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_says_nothing(silent: str, scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", f"--target={scheme}://{silent}", "--timeout=0.2", "--no-progress"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("quire bench serve: error: ")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 500 no\r\n\r\n",
        ok(b""),
        ok(b"{"),
        ok(b"[]"),
        ok(b"{}"),
        ok(b'{"data": 3}'),
        ok(b'{"data": []}'),
        ok(b'{"data": [3]}'),
        ok(b'{"data": [{"id": 3}]}'),
        ok(b'{"data": [{"id": "m", "vocab_size": "many"}]}'),
        ok(b'{"data": [{"id": "m", "vocab_size": -1}]}'),
        ok(b"\xff", "text/html"),
        ok(b"[" * 100_000),
    ],
)
async def test_a_list_of_models_that_is_none(answer: bytes) -> None:
    async with answering(answer) as address:
        target = opened(f"http://{address}")
        with pytest.raises(Unavailable, match=address) as caught:
            await target.info()
        await target.close()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", ok(b"{}")])
async def test_what_speaks_no_grpc(answer: bytes) -> None:
    async with answering(answer) as address:
        target = opened(address)
        with pytest.raises(QuireError):
            await target.info()
        await target.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 500 no\r\nContent-Type: text/plain; charset=nope\r\nContent-Length: 2\r\n\r\n\xff\xfe",
        b"HTTP/1.1 302 no\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: 3",
        ok(b""),
    ],
)
async def test_an_exchange_that_fails_is_a_failure(answer: bytes) -> None:
    async with answering(answer) as address:
        target = opened(f"http://{address}")
        assert target.digest(await target.send(target.encode("a", 1))).error
        await target.close()


@pytest.mark.parametrize(
    "event",
    [
        b"{",
        b"3",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"choices": [1], "usage": 3}',
        b'{"choices": [1], "usage": [1]}',
        b'{"choices": [1], "usage": {"completion_tokens": "5"}}',
        b'{"choices": [1], "usage": {"completion_tokens": -5}}',
        b'{"choices": [1], "usage": {"completion_tokens": 1, "prompt_tokens": {}}}',
        b'{"choices": [1], "usage": {"completion_tokens": 1, "prompt_tokens_details": 3}}',
        b'{"error": 3}',
    ],
)
async def test_an_event_that_is_none_is_a_failure(event: bytes) -> None:
    target = opened("http://host:1")
    good = b'data: {"choices": [1]}\n\n'
    record = target.digest(Exchange(0.0, 1.0, [(0.5, good), (0.6, b"data: " + event + b"\n\n")]))
    assert record.error in ("broken stream", "error in the stream")
    await target.close()


@pytest.mark.parametrize(
    ("part", "error"),
    [(b"\x0a\xff", "broken stream"), (b"", "no tokens"), (pb.GenerateStreamResponse(token_ids=[1]), "no finish")],
)
async def test_a_message_that_is_none_is_a_failure(part: bytes | pb.GenerateStreamResponse, error: str) -> None:
    target = opened("host:1")
    payload = part if isinstance(part, bytes) else part.SerializeToString()
    assert target.digest(Exchange(0.0, 1.0, [(0.5, payload)])).error == error
    await target.close()
