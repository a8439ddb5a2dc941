"""When services that were just started can work."""

import asyncio
import re
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.internal.v1 import scheduler_pb2, scheduler_pb2_grpc
from quire.services.common.channel import open_channel
from quire.services.common.liveness import answers

POLL_SECONDS = 0.05
ANSWER_SECONDS = 5.0


class Notices:
    """A context manager with a socket at which processes say that they serve: see `notify_ready`.

    Attributes:
        place: of the socket, for their environment.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="quire-ready-")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.place = str(Path(self._folder.name) / "notify")

    def __enter__(self) -> Self:
        self._socket.bind(self.place)
        self._socket.setblocking(False)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._folder.cleanup()

    async def of(self, count: int) -> None:
        """Returns when so many processes have said so."""
        said: set[bytes] = set()
        while len(said) < count:
            notice = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
            said.update(re.findall(rb"^X_QUIRE_PID=(\d+)$", notice, re.MULTILINE))


async def until_answers(address: str) -> None:
    """Returns when a service answers, whatever it can do now."""
    async with open_channel(address) as channel:
        while not await answers(channel, ANSWER_SECONDS):
            await asyncio.sleep(POLL_SECONDS)


async def leader(schedulers: tuple[str, ...]) -> str | None:
    """The address of the scheduler that leads and serves; None: none does now."""
    for address in schedulers:
        async with open_channel(address) as channel:
            with suppress(grpc.aio.AioRpcError):
                request = health_pb2.HealthCheckRequest()
                found = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=ANSWER_SECONDS)
                if found.status == health_pb2.HealthCheckResponse.SERVING:
                    return address
    return None


async def until_led(schedulers: tuple[str, ...], num_executors: int) -> None:
    """Returns when a scheduler leads, and so many executors serve it."""
    while True:
        leads = await leader(schedulers)
        if leads is not None and await _num_executors(leads) >= num_executors:
            return
        await asyncio.sleep(POLL_SECONDS)


async def _num_executors(scheduler: str) -> int:
    """How many serve it."""
    async with open_channel(scheduler) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        with suppress(grpc.aio.AioRpcError):
            found = await stub.GetStatistics(scheduler_pb2.GetStatisticsRequest(), timeout=ANSWER_SECONDS)
            return sum(not each.is_draining for each in found.executors)
    return 0
