"""What a link does to a connection: bytes late, swallowed, and cut off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chaos.link import Link
from quire.services.up.ports import LOOPBACK, free_port

SECONDS = 60


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """To a service that sends back what it gets."""
    port = free_port()
    async with await asyncio.start_server(_echo, LOOPBACK, port):
        link = Link(f"{LOOPBACK}:{port}")
        await link.open()
        yield link
        await link.close()


@asynccontextmanager
async def connected(link: Link) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = link.address.split(":")
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.close()


async def test_bytes_pass_late_and_in_order(link: Link) -> None:
    link.delay = 0.01
    async with connected(link) as (reader, writer):
        for text in (b"one ", b"two"):
            writer.write(text)
        assert await reader.readexactly(7) == b"one two"
        writer.write_eof()
        assert await reader.read() == b""


async def test_what_is_swallowed_arrives_when_the_link_heals(link: Link) -> None:
    async with connected(link) as (reader, writer):
        link.swallow()
        writer.write(b"late")
        reading = asyncio.create_task(reader.readexactly(4))
        async with connected(link) as (other_reader, other_writer):
            other_writer.write(b"new")
            await asyncio.sleep(0.05)
            assert not reading.done()
            link.heal()
            assert await reading == b"late"
            assert await other_reader.readexactly(3) == b"new"


async def test_a_reset_is_one_and_a_closed_link_refuses(link: Link) -> None:
    async with connected(link) as (reader, writer):
        writer.write(b"here")
        assert await reader.readexactly(4) == b"here"
        link.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    async with connected(link) as (reader, writer):
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        await link.close()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    with pytest.raises(ConnectionRefusedError):
        async with connected(link):
            pass


async def test_a_service_that_is_gone_resets(link: Link) -> None:
    nowhere = Link(f"{LOOPBACK}:{free_port()}")
    await nowhere.open()
    async with connected(nowhere) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()
    await nowhere.close()
