"""Everything that faults happen to: two of each service and a Redis, with a link in front of each peer."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chaos.link import Link
from chaos.service import Service
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.redis import RedisLedger
from quire.internal.v1 import scheduler_pb2, scheduler_pb2_grpc
from quire.services.common.channel import open_channel
from quire.services.up.ports import LOOPBACK, free_port
from quire.v1 import inference_pb2, inference_pb2_grpc
from support.redis_server import RedisServer, redis_server

POLL_SECONDS = 0.02
# Until all services serve again behind a fault. The machine may be busy.
WHOLE_SECONDS = 120.0
# A peer that hangs is given up after this, twice.
KEEPALIVE_SECONDS = 1.0
_COMMON: Mapping[str, object] = {
    "keepalive_seconds": KEEPALIVE_SECONDS,
    "keepalive_timeout_seconds": KEEPALIVE_SECONDS,
    "log_level": "info",
}


class Cluster:
    """Two frontends, two schedulers, two executors.

        frontends ──▶ links ──▶ schedulers ──▶ links ──▶ executors
                                    └────────▶ links ──▶ Redis

    Args:
        store: folder with the files of Redis.
        num_blocks: of each executor's pool.
        folder: for logs.

    Attributes:
        services: all, by name.
        links: by what they lead from and to; "*" is every scheduler, as an executor has one address.
    """

    def __init__(self, redis: RedisServer, store: Path, num_blocks: int, folder: Path) -> None:
        self.redis = redis
        self.store = store
        self.folder = folder
        self.services: dict[str, Service] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self._crashes: list[tuple[str, int]] = []
        executors = [self._executor(f"executor{i}", num_blocks) for i in range(2)]
        schedulers = [self._scheduler(f"scheduler{i}", executors) for i in range(2)]
        for i in range(2):
            self._frontend(f"frontend{i}", schedulers)

    @property
    def frontends(self) -> list[str]:
        return self._named("frontend")

    @property
    def schedulers(self) -> list[str]:
        return self._named("scheduler")

    @property
    def executors(self) -> list[str]:
        return self._named("executor")

    async def start(self) -> None:
        """Returns when everything serves."""
        for link in self.links.values():
            await link.open()
        for service in self.services.values():
            service.start()
        await self.whole()

    async def stop(self) -> list[int]:
        """Ends everything; the ids of processes that are left, of all that there ever were."""
        for service in self.services.values():
            service.kill()
        for service in self.services.values():
            await service.gone()
        for link in self.links.values():
            await link.close()
        return [pid for service in self.services.values() for pid in service.pids if psutil.pid_exists(pid)]

    async def whole(self) -> None:
        """Starts what has ended by itself, and returns when a scheduler leads, another waits, and each frontend knows
        of both executors.
        """
        deadline = time.monotonic() + WHOLE_SECONDS
        while True:
            for service in self.services.values():
                if service.exit_code is not None:
                    if not service.was_ended:
                        self._crashes.append((service.name, service.exit_code))
                    service.start()
            leads = await asyncio.gather(*(_is_serving(self.services[name].address) for name in self.schedulers))
            counts = await asyncio.gather(*(_num_executors(self.services[name].address) for name in self.frontends))
            if sorted(map(str, leads)) == ["False", "True"] and counts == [len(self.executors)] * len(self.frontends):
                for service in self.services.values():
                    service.is_ready = True
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"not whole: schedulers {leads}, executors of frontends {counts}")
            await asyncio.sleep(POLL_SECONDS)

    def take_crashes(self) -> list[tuple[str, int]]:
        """(name, exit code) of services that ended by themselves since this was asked last."""
        crashes, self._crashes = self._crashes, []
        return crashes

    async def leader(self) -> str:
        """The name of the scheduler that leads."""
        while True:
            for name in self.schedulers:
                if await _is_serving(self.services[name].address):
                    return name
            await asyncio.sleep(POLL_SECONDS)

    async def recomputed(self) -> dict[str, int]:
        """Tokens computed again so far, by scheduler and executor as they are now."""
        while True:
            leader = await self.leader()
            process = self.services[leader].pids[-1]
            # It may lead no more when it is asked.
            with suppress(grpc.aio.AioRpcError):
                async with open_channel(self.services[leader].address) as channel:
                    stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
                    answer = await stub.GetStatistics(scheduler_pb2.GetStatisticsRequest(), timeout=5)
                counts = {each.name: each.num_recomputed_tokens for each in answer.executors}
                return {f"{process} {answer.epoch} {name}": count for name, count in counts.items()}

    async def audit(self, is_settled: bool = False) -> list[str]:
        """What is wrong with the books of any pool, held blocks included once nothing runs."""
        ledger = RedisLedger.connect(self.redis.url)
        faults = []
        try:
            for name in self.executors:
                found = await ledger.snapshot(self.links["*", name].address)
                if found is None:
                    faults += [f"{name}: no pool"] if is_settled else []
                    continue
                faults += [f"{name}: {fault}" for fault in audit(found[1], found[0].num_groups)]
                faults += [f"{name}: held by {found[1].holds}"] if is_settled and found[1].holds else []
        finally:
            await ledger.close()
        return faults

    def _named(self, command: str) -> list[str]:
        return [name for name in self.services if name.startswith(command)]

    def _link(self, source: str, name: str, target: str) -> str:
        link = self.links[source, name] = Link(target)
        return link.address

    def _add(self, name: str, flags: Mapping[str, object]) -> str:
        address = f"{LOOPBACK}:{free_port()}"
        self.services[name] = Service(name, address, {**_COMMON, **flags}, self.folder)
        return address

    def _executor(self, name: str, num_blocks: int) -> str:
        flags = {"num_blocks": num_blocks, "num_threads": 1, "dtype": "float32", "drain_seconds": 0.3}
        return self._link("*", name, self._add(name, flags))

    def _scheduler(self, name: str, executors: list[str]) -> str:
        redis = self._link(name, "redis", self.redis.address)
        metrics = f"{LOOPBACK}:{free_port()}"
        flags = {"executors": ",".join(executors), "redis": f"redis://{redis}/0", "metrics_listen": metrics}
        self._add(name, flags)
        return name

    def _frontend(self, name: str, schedulers: list[str]) -> None:
        links = [self._link(name, scheduler, self.services[scheduler].address) for scheduler in schedulers]
        flags = {"http_listen": "", "scheduler": ",".join(links), "drain_seconds": 0.3, "failover_seconds": 60}
        self._add(name, flags)


@asynccontextmanager
async def cluster(num_blocks: int, folder: Path) -> AsyncIterator[Cluster]:
    """One that serves; at the end its books are sound and none of its processes is left."""
    store = folder / "redis"
    store.mkdir()
    with redis_server("--appendonly", "yes", "--dir", str(store)) as redis:
        running = Cluster(redis, store, num_blocks, folder)
        try:
            await running.start()
            yield running
            deadline = time.monotonic() + WHOLE_SECONDS
            while faults := await running.audit(is_settled=True):
                assert time.monotonic() < deadline, faults
                await asyncio.sleep(POLL_SECONDS)
        finally:
            left = await running.stop()
        assert not left, f"processes are left: {left}"


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """How much was added; what is smaller than before, or new, has begun at 0."""
    pairs = ((before.get(name, 0), now) for name, now in after.items())
    return sum(now - then if now >= then else now for then, now in pairs)


async def _is_serving(address: str) -> bool | None:
    """None: it does not answer."""
    async with open_channel(address) as channel:
        with suppress(grpc.aio.AioRpcError):
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return None


async def _num_executors(address: str) -> int:
    async with open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        with suppress(grpc.aio.AioRpcError):
            return int((await stub.GetServer(inference_pb2.GetServerRequest(), timeout=1)).num_executors)
    return 0
