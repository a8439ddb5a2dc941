"""All services of one machine as processes, from the start to the end."""

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import Coroutine
from contextlib import suppress
from typing import NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from quire.engine.api.errors import StartupError
from quire.services.common.channel import open_channel
from quire.services.common.first_of import first_of
from quire.services.common.held_port import HeldPort
from quire.services.common.liveness import until_silent
from quire.services.common.restarts import Pauses
from quire.services.up.places import Places
from quire.services.up.ports import check_ports
from quire.services.up.process import Child, say
from quire.services.up.programs import FRONTEND, REDIS, Programs
from quire.services.up.settings import UpSettings
from quire.v1 import inference_pb2, inference_pb2_grpc

POLL_SECONDS = 0.05
# What a service has to end by itself beside the time for its requests, before it is killed.
STOP_SECONDS = 10.0


class Stack:
    """Starts Redis, executors, scheduler and frontend, and stops them in the opposite order of their use.

    Args:
        quiet: keep the services' logs back unless one fails.

    Attributes:
        places: where all are.
        programs: that are started.
        children: the processes, in the order in which they stop.
        changing: for each place among them, held by who starts another process there.
    """

    def __init__(self, settings: UpSettings, quiet: bool = False) -> None:
        self.settings = settings
        self.places = Places.choose(settings)
        self.programs = Programs(settings, self.places, quiet)
        self.children: list[Child] = []
        self.changing: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._held: list[HeldPort] = []
        self._quiet = quiet

    @property
    def frontend(self) -> str:
        return self.places.frontend

    @property
    def http(self) -> str:
        return self.places.http

    @property
    def redis(self) -> str:
        return self.places.redis

    @property
    def schedulers(self) -> tuple[str, ...]:
        return self.places.schedulers

    @property
    def executors(self) -> tuple[str, ...]:
        return self.places.executors

    @property
    def spares(self) -> tuple[str, ...]:
        return self.places.spares

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.places.metrics

    @property
    def stop_seconds(self) -> float:
        """That a service has to end."""
        return self.settings.drain_seconds + STOP_SECONDS

    def change(self, settings: UpSettings) -> None:
        """What is started from now on has these settings. The places stay."""
        self.settings = settings
        self.programs = Programs(settings, self.places, self._quiet)

    async def start(self) -> None:
        """Returns when every service is SERVING.

        Raises:
            StartupError: a port is in use, or a service ended instead.
        """
        check_ports(self.settings)
        flags = (("--frontend-port", self.places.frontend_listen), ("--http-port", self.places.http_listen))
        # A frontend that replaces another listens beside it.
        self._held = [HeldPort(flag, place) for flag, place in flags]
        # All at once: each imports for a second or more. Only the scheduler ends if Redis does not answer.
        for name in (*self.programs.executors, *self.programs.spares):
            self.children.append(await self.launch(name))
        self.children.insert(0, await self.launch(FRONTEND))
        if self.places.redis_port is not None:
            self.children.append(await self.launch(REDIS))
            await self._until(_answers_ping(self.redis))
        for name in reversed(self.programs.schedulers):
            self.children.insert(1, await self.launch(name))
        for address in (*self.executors, *self.spares, self.frontend):
            await self._until(is_serving(address))
        if self.settings.api_keys is None:  # none of its keys is known here
            await self._until(has_executors(self.frontend, len(self.executors)))

    async def supervise(self) -> None:
        """Starts a process again whenever one has ended or is stuck, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for place in range(len(self.children)):
                tasks.create_task(self._supervise(place))

    async def stop(self) -> bool:
        """Stops what runs, the frontend first, and kills all if it is cancelled; whether all have ended well."""
        running = [child for child in self.children if child.is_running]
        try:
            codes = [await child.stop(self.stop_seconds) for child in running]
        except asyncio.CancelledError:
            for child in self.children:
                child.kill()
            raise
        finally:
            for port in self._held:
                port.close()
        # One that was still starting knows no better way to end than that of the signal.
        return all(code in (0, -signal.SIGTERM) for code in codes)

    async def launch(self, name: str) -> Child:
        """Starts the program of this name, which has no place among the children yet."""
        return await Child.start(self.programs.of(name))

    async def _supervise(self, place: int) -> NoReturn:
        pauses = Pauses()
        while True:
            child, began = self.children[place], time.monotonic()
            code = await self._ended(child)
            async with self.changing[place]:
                if self.children[place] is not child:
                    continue  # it was replaced
                pause = pauses.after(time.monotonic() - began)
                say(f"quire: {child.name} {described(code)}; starting it again in {pause:g} s")
                await asyncio.sleep(pause)
                # The machine may have no room for it yet.
                with suppress(OSError):
                    self.children[place] = await Child.start(child.program)

    async def _ended(self, child: Child) -> int:
        """Its exit code, once it has ended by itself, or because it was stuck."""
        guarding = asyncio.create_task(self._guard(child))
        try:
            return await child.wait()
        finally:
            guarding.cancel()

    async def _guard(self, child: Child) -> None:
        """Kills a process that has answered and does not any more."""
        seconds, address = self.settings.stall_seconds, child.program.address
        if child.name == REDIS:
            await _answers_ping(self.redis)
            await _until_no_ping(self.redis, seconds)
        elif address:
            async with open_channel(address) as channel:
                await channel.channel_ready()
                await until_silent(channel, seconds)
        else:
            return
        if not child.is_stopping:
            say(f"quire: {child.name} has not answered for {seconds:g} s; killing it")
            child.kill()

    async def _failure(self) -> str:
        """Returns what is to be said of a child that has ended, as soon as one has."""
        while True:
            for child in self.children:
                if not child.is_running:
                    return f"{child.name} {described(await child.wait())}: {child.last_line}"
            await asyncio.sleep(POLL_SECONDS)

    async def _until(self, ready: Coroutine[None, None, None]) -> None:
        """Waits for it, unless a child ends first."""
        if failure := await first_of(self._failure(), ready):
            raise StartupError(failure)


def described(code: int) -> str:
    """How a process has ended, as a phrase."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'}"


async def is_serving(address: str) -> None:
    """Returns when the service at the address says SERVING."""
    async with open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            with suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(health_pb2.HealthCheckRequest())
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(POLL_SECONDS)


async def has_executors(frontend: str, count: int) -> None:
    """Returns when the frontend knows of `count` executors."""
    async with open_channel(frontend) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        while True:
            with suppress(grpc.aio.AioRpcError):
                if (await stub.GetServer(inference_pb2.GetServerRequest())).num_executors >= count:
                    return
            await asyncio.sleep(POLL_SECONDS)


async def _answers_ping(url: str) -> None:
    async with Redis.from_url(url) as redis:
        while True:
            with suppress(RedisConnectionError):
                await redis.ping()
                return
            await asyncio.sleep(POLL_SECONDS)


async def _until_no_ping(url: str, seconds: float) -> None:
    """Returns when Redis, which has answered, leaves a question unanswered for so long."""
    async with Redis.from_url(url) as redis:
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await redis.ping()
            except TimeoutError:
                return
            except RedisConnectionError:
                pass  # it has ended, as whoever waits for it knows
            await asyncio.sleep(seconds / 8)
