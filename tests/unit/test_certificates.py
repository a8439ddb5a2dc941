"""TLS of a port: who gets in, and certificates that are replaced while the server runs."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from quire.engine.api.errors import StartupError
from quire.protos.channel import CHANNEL_OPTIONS
from quire.protos.credentials import Credentials, open_aio_channel
from quire.services.common.certificates import CertificateFiles, ServerCertificates
from quire.services.common.security import ServerSecurity
from quire.services.common.server import serving
from quire.services.frontend.http.limits import HttpLimits
from quire.services.frontend.http.server import http_serving
from quire.services.up.ports import LOOPBACK, free_port
from support.certificates import Authority, Issued

LIMITS = HttpLimits(max_connections=8, max_header_bytes=4096, header_seconds=60, body_seconds=60, write_seconds=60)


@asynccontextmanager
async def grpc_port(security: ServerSecurity) -> AsyncIterator[str]:
    address = f"{LOOPBACK}:{free_port()}"
    async with serving(address, [], lambda server: None, grace=0, security=security) as health:
        await health.set("")
        yield address


async def ask(address: str, credentials: Credentials) -> grpc.StatusCode:
    """What a question for health is answered with."""
    async with open_aio_channel(address, CHANNEL_OPTIONS, credentials) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def server_of(issued: Issued, client_authority: Path | None = None) -> ServerCertificates:
    return ServerCertificates(CertificateFiles(issued.certificate, issued.key, client_authority))


def client_of(issued: Issued, trusted: Path) -> Credentials:
    return Credentials(True, trusted, issued.certificate, issued.key, "server")


async def test_only_known_clients_get_in(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    security = ServerSecurity(server_of(ours.issue("server"), ours.file))
    async with grpc_port(security) as address:
        unavailable = grpc.StatusCode.UNAVAILABLE
        assert await ask(address, client_of(ours.issue("client"), ours.file)) is grpc.StatusCode.OK
        assert await ask(address, Credentials()) is unavailable
        assert await ask(address, Credentials(True, ours.file, server_name="server")) is unavailable
        assert await ask(address, client_of(ours.issue("late", is_expired=True), ours.file)) is unavailable
        assert await ask(address, client_of(others.issue("client"), ours.file)) is unavailable
        # A client does not trust any server either.
        assert await ask(address, client_of(ours.issue("client"), others.file)) is unavailable
        wrong_name = Credentials(True, ours.file, server_name="another")
        assert await ask(address, wrong_name) is unavailable


async def test_a_certificate_is_replaced(tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    issued = first.issue("server")
    async with grpc_port(ServerSecurity(server_of(issued))) as address:
        old, new = (Credentials(True, each.file, server_name="server") for each in (first, second))
        assert await ask(address, old) is grpc.StatusCode.OK
        other = second.issue("server")
        # Half of a pair is not used.
        issued.certificate.write_bytes(other.certificate.read_bytes())
        assert await ask(address, old) is grpc.StatusCode.OK
        issued.key.write_bytes(other.key.read_bytes())
        assert await ask(address, new) is grpc.StatusCode.OK
        assert await ask(address, old) is grpc.StatusCode.UNAVAILABLE


async def fetch(port: int, context: ssl.SSLContext | None) -> bytes:
    reader, writer = await asyncio.open_connection(
        LOOPBACK, port, ssl=context, server_hostname="server" if context else None
    )
    writer.write(b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")
    try:
        return await reader.read()
    finally:
        await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def trusting(authority: Path, shown: Issued | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return context


@asynccontextmanager
async def https_port(certificates: ServerCertificates) -> AsyncIterator[int]:
    async def scheme(request: object) -> PlainTextResponse:
        return PlainTextResponse(request.scope["scheme"])  # type: ignore[attr-defined]

    port = free_port()
    app = Starlette(routes=[Route("/", scheme)])
    async with http_serving(f"{LOOPBACK}:{port}", app, LIMITS, grace=0, certificates=certificates):
        yield port


async def test_https(tmp_path: Path) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    issued = first.issue("server")
    async with https_port(server_of(issued)) as port:
        # Whoever does not speak, or not TLS, holds up nobody.
        silent = [await asyncio.open_connection(LOOPBACK, port) for _ in range(2)]
        assert await fetch(port, None) == b""
        assert (await fetch(port, trusting(first.file))).endswith(b"https")
        other = second.issue("server")
        issued.certificate.write_bytes(other.certificate.read_bytes())
        issued.key.write_bytes(other.key.read_bytes())
        assert (await fetch(port, trusting(second.file))).endswith(b"https")
        with pytest.raises(ssl.SSLCertVerificationError):
            await fetch(port, trusting(first.file))
        for _, writer in silent:
            await closed(writer)


async def test_https_for_known_clients(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    async with https_port(server_of(ours.issue("server"), ours.file)) as port:
        assert (await fetch(port, trusting(ours.file, ours.issue("client")))).endswith(b"https")
        # With TLS 1.3 a client hears of it when it reads, or just finds the end.
        with suppress(ssl.SSLError, ConnectionResetError):
            assert await fetch(port, trusting(ours.file)) == b""


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    issued, another = ours.issue("server"), ours.issue("another")
    for files in (
        CertificateFiles(tmp_path / "none.pem", issued.key),
        CertificateFiles(issued.certificate, another.key),
        CertificateFiles(issued.key, issued.key),
        CertificateFiles(issued.certificate, issued.key, issued.key),
    ):
        with pytest.raises(StartupError, match="the server's certificate cannot be used"):
            ServerCertificates(files)
