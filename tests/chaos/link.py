"""A TCP proxy between two services, whose wire can be slowed, cut or made to swallow everything."""

import asyncio
import socket
import struct
from contextlib import suppress

from quire.services.up.ports import LOOPBACK, free_port

_CHUNK = 1 << 16
# SO_LINGER with a time of 0: the connection ends with a reset.
_RESET = struct.pack("ii", 1, 0)


class Link:
    """Passes bytes on in both directions.

    Args:
        target: "host:port" of the service behind it.

    Attributes:
        address: where the service is reached through it.
        delay: seconds that bytes take in each direction.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._port = free_port()
        self.address = f"{LOOPBACK}:{self._port}"
        self.delay = 0.0
        self._passing = asyncio.Event()
        self._passing.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Takes connections; harmless if it does."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, LOOPBACK, self._port)

    async def close(self) -> None:
        """Refuses new connections, and resets those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def reset(self) -> None:
        """Ends every open connection with a reset; new ones are taken."""
        for connection in self._connections:
            connection.cancel()

    def swallow(self) -> None:
        """Nothing arrives from now on, as behind a firewall that drops packets; new connections hang."""
        self._passing.clear()

    def heal(self) -> None:
        """Everything arrives again, that which was on its way first."""
        self._passing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await self._passing.wait()
            host, port = self.target.split(":")
            there, thither = await asyncio.open_connection(host, int(port))
            writers.append(thither)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, thither))
                tasks.create_task(self._pump(there, writer))
        except* OSError:  # nobody is there, or one end is gone
            pass
        finally:
            for each in writers:
                _reset(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
