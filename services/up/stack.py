"""All services of one machine as processes, from the start to the end."""

import asyncio
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from quire.engine.api.errors import StartupError
from quire.engine.config import ChatConfig
from quire.services.common.address import joined
from quire.services.common.api_key_file import ApiKeyFile
from quire.services.common.channel import open_channel
from quire.services.common.host_names import HostNames
from quire.services.common.restarts import Pauses
from quire.services.common.settings import to_flags
from quire.services.up.ports import LOOPBACK, check_ports, free_port, reachable
from quire.services.up.process import Child, Program, say
from quire.services.up.redis_server import redis_command
from quire.services.up.settings import UpSettings
from quire.v1 import inference_pb2, inference_pb2_grpc

POLL_SECONDS = 0.05
# Settings that the frontend gets as they are given.
PASSED_ON = {*ChatConfig.model_fields, *HostNames.model_fields, *ApiKeyFile.model_fields}
# What a service has to end by itself beside the time for its requests, before it is killed.
STOP_SECONDS = 10.0
# Settings that are those of every service.
_COMMON = {"log_level", "log_format", "trace_dir", "otlp_endpoint", "otlp_protocol"}
# Names of the schedulers' processes, in the order of their addresses. Which of them leads is decided in Redis.
SCHEDULERS = ("scheduler", "standby")


class Stack:
    """Starts Redis, executors, scheduler and frontend, and stops them in the opposite order of their use.

    Args:
        quiet: keep the services' logs back unless one fails.

    Attributes:
        redis, frontend, http, schedulers, executors: where this machine reaches them; known once it is constructed.
        metrics: the first scheduler's /metrics, the executors', then the standby's; empty: they have none.
        children: the processes, in the order in which they stop.
    """

    def __init__(self, settings: UpSettings, quiet: bool = False) -> None:
        self._settings = settings
        self._quiet = quiet
        self._redis_port = None if settings.redis else free_port()
        self.redis = settings.redis or f"redis://{LOOPBACK}:{self._redis_port}/0"
        self._frontend_port = settings.frontend_port or free_port()
        self._http_port = settings.http_port or free_port()
        self.frontend = joined(reachable(settings.host), self._frontend_port)
        self.http = joined(reachable(settings.host), self._http_port)
        self.schedulers = [f"{LOOPBACK}:{settings.scheduler_port or free_port()}"]
        if settings.standby:
            self.schedulers.append(f"{LOOPBACK}:{free_port()}")
        first = settings.executor_port
        ports = [first + i if first else free_port() for i in range(settings.num_executors)]
        self.executors = [f"{LOOPBACK}:{port}" for port in ports]
        self.metrics = [f"{LOOPBACK}:{port or free_port()}" for port in settings.ports_of_metrics]
        self.children: list[Child] = []

    async def start(self) -> None:
        """Returns when every service is SERVING.

        Raises:
            StartupError: a port is in use, or a service ended instead.
        """
        check_ports(self._settings)
        # All at once: each imports for a second or more. Only the scheduler ends if Redis does not answer.
        for i, address in enumerate(self.executors):
            name = "executor" if len(self.executors) == 1 else f"executor{i}"
            self.children.append(await self.start_executor(name, address))
        self.children.insert(0, await self.start_frontend())
        if self._redis_port is not None:
            program = Program("redis", tuple(redis_command(self._redis_port)), is_quiet=True)
            self.children.append(await Child.start(program))
            await self._until(_answers_ping(self.redis))
        for name, address in reversed(list(zip(SCHEDULERS, self.schedulers, strict=False))):
            self.children.insert(1, await self.start_scheduler(name, address))
        for address in (*self.executors, self.frontend):
            await self._until(is_serving(address))
        if self._settings.api_keys is None:  # none of its keys is known here
            await self._until(has_executors(self.frontend, len(self.executors)))

    async def supervise(self) -> None:
        """Starts a process again whenever one has ended, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for place in range(len(self.children)):
                tasks.create_task(self._supervise(place))

    async def stop(self) -> bool:
        """Stops what runs, the frontend first, and kills all if it is cancelled; whether all have ended well."""
        running = [child for child in self.children if child.is_running]
        try:
            codes = [await child.stop(self._settings.drain_seconds + STOP_SECONDS) for child in running]
        except asyncio.CancelledError:
            for child in self.children:
                child.kill()
            raise
        # One that was still starting knows no better way to end than that of the signal.
        return all(code in (0, -signal.SIGTERM) for code in codes)

    async def start_executor(self, name: str, address: str) -> Child:
        flags = self._settings.executor.model_dump(exclude_unset=True)
        places: dict[str, object] = {"listen": address, "drain_seconds": self._settings.drain_seconds}
        if self.metrics:
            places["metrics_listen"] = self.metrics[1 + self.executors.index(address)]
        return await self._service(name, "executor", {**places, **flags})

    async def start_scheduler(self, name: str, address: str) -> Child:
        flags = self._settings.scheduler.model_dump(exclude_unset=True)
        places = {"listen": address, "executors": ",".join(self.executors)}
        own_metrics = (*self.metrics[:1], *self.metrics[1 + len(self.executors) :])
        if listen := dict(zip(SCHEDULERS, own_metrics, strict=False)).get(name):
            places["metrics_listen"] = listen
        # Its URL may have a password.
        return await self._service(name, "scheduler", {**places, **flags}, {"QUIRE_SCHEDULER_REDIS": self.redis})

    async def start_frontend(self) -> Child:
        flags = {
            "listen": joined(self._settings.host, self._frontend_port),
            "http_listen": joined(self._settings.host, self._http_port),
            "scheduler": ",".join(self.schedulers),
            "model": self._settings.executor.model,
            "served_model_name": self._settings.served_model_name,
            "stream_interval": self._settings.stream_interval,
            "ui": self._settings.ui,
            "workers": self._settings.frontend_workers,
            "vllm_metrics": self._settings.vllm_metrics,
            "drain_seconds": self._settings.drain_seconds,
            "trace_sample": self._settings.trace_sample,
            **self._settings.model_dump(include=PASSED_ON, exclude_unset=True),
        }
        return await self._service("frontend", "frontend", flags)

    async def _service(
        self, name: str, command: str, flags: Mapping[str, object], secrets: Mapping[str, str] | None = None
    ) -> Child:
        settings = self._settings
        common = settings.model_dump(include=_COMMON)
        line = (sys.executable, "-m", "quire.services.cli", command, *to_flags({**common, **flags}))
        return await Child.start(
            Program(name, line, secrets or {}, self._quiet, is_named=settings.log_format == "text")
        )

    async def _supervise(self, place: int) -> NoReturn:
        pauses = Pauses()
        while True:
            child, began = self.children[place], time.monotonic()
            code = await child.wait()
            pause = pauses.after(time.monotonic() - began)
            say(f"quire: {child.name} {_described(code)}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            # The machine may have no room for it yet.
            with suppress(OSError):
                self.children[place] = await Child.start(child.program)

    async def _failure(self) -> str:
        """Returns what is to be said of a child that has ended, as soon as one has."""
        while True:
            for child in self.children:
                if not child.is_running:
                    return f"{child.name} {_described(await child.wait())}: {child.last_line}"
            await asyncio.sleep(POLL_SECONDS)

    async def _until(self, ready: Coroutine[None, None, None]) -> None:
        """Waits for it, unless a child ends first."""
        waiting, failing = asyncio.ensure_future(ready), asyncio.ensure_future(self._failure())
        try:
            await asyncio.wait((waiting, failing), return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                raise StartupError(failing.result())
            waiting.result()
        finally:
            for task in (waiting, failing):
                task.cancel()


def _described(code: int) -> str:
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
