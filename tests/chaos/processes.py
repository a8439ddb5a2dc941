"""Processes that end or hang."""

import random
import signal
from dataclasses import dataclass

from chaos.cluster import KEEPALIVE_SECONDS, Cluster
from chaos.fault import Fault, Kind
from chaos.service import Service

# Of the schedulers' lease, by default.
LEASE_SECONDS = 0.8
HANGS = (2 * KEEPALIVE_SECONDS + 0.5, 2 * KEEPALIVE_SECONDS + 1.5)


@dataclass(frozen=True)
class End(Fault):
    """A process ends by a signal, and is started again."""

    services: tuple[Service, ...]
    number: signal.Signals

    async def apply(self) -> None:
        for service in self.services:
            await service.end(self.number)

    async def undo(self) -> None:
        for service in self.services:
            service.start()


@dataclass(frozen=True)
class Freeze(Fault):
    """A process is stopped, and goes on."""

    service: Service

    async def apply(self) -> None:
        self.service.send(signal.SIGSTOP)

    async def undo(self) -> None:
        self.service.send(signal.SIGCONT)


async def _leader(cluster: Cluster, chance: random.Random) -> Service:
    return cluster.services[await cluster.leader()]


async def _standby(cluster: Cluster, chance: random.Random) -> Service:
    leader = await cluster.leader()
    return next(cluster.services[name] for name in cluster.schedulers if name != leader)


async def _executor(cluster: Cluster, chance: random.Random) -> Service:
    return cluster.services[chance.choice(cluster.executors)]


async def _frontend(cluster: Cluster, chance: random.Random) -> Service:
    return cluster.services[chance.choice(cluster.frontends)]


_SUBJECTS = {"leader": _leader, "standby": _standby, "executor": _executor, "frontend": _frontend}


def _ends(subject: str, number: signal.Signals, limit: float | None) -> Kind:
    async def make(cluster: Cluster, chance: random.Random) -> Fault:
        return End((await _SUBJECTS[subject](cluster, chance),), number)

    return Kind(f"{subject}: {number.name}", make, limit=limit)


def _freezes(subject: str, lasts: tuple[float, float], how: str) -> Kind:
    async def make(cluster: Cluster, chance: random.Random) -> Fault:
        return Freeze(await _SUBJECTS[subject](cluster, chance))

    return Kind(f"{subject}: SIGSTOP, {how}", make, lasts)


async def _all_schedulers(cluster: Cluster, chance: random.Random) -> Fault:
    return End(tuple(cluster.services[name] for name in cluster.schedulers), signal.SIGKILL)


async def _all_executors(cluster: Cluster, chance: random.Random) -> Fault:
    return End(tuple(cluster.services[name] for name in cluster.executors), signal.SIGKILL)


ENDS = (
    *(_ends(subject, signal.SIGKILL, 1.0) for subject in _SUBJECTS),
    *(_ends(subject, signal.SIGTERM, 1.0) for subject in _SUBJECTS),
    Kind("both schedulers: SIGKILL", _all_schedulers, is_whole=True),
    Kind("both executors: SIGKILL", _all_executors, is_whole=True),
)
FREEZES = (
    *(_freezes(subject, (0.05, 0.5), "short") for subject in _SUBJECTS),
    _freezes("leader", (1.5 * LEASE_SECONDS, 4 * LEASE_SECONDS), "past the lease"),
    _freezes("executor", HANGS, "past keepalive"),
    _freezes("frontend", HANGS, "past keepalive"),
)
