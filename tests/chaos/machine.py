"""A machine that is out of disk or memory, for one service of it."""

import random
import resource
from dataclasses import dataclass

import psutil

from chaos.cluster import Cluster
from chaos.fault import Fault, Kind
from chaos.service import Service

# What a service may still take before its memory is full.
_SPARE_BYTES = (0, 1 << 20)


@dataclass(frozen=True)
class Limit(Fault):
    """The process may not have more than it has."""

    service: Service
    kind: int
    most: int

    async def apply(self) -> None:
        self._set(self.most)

    async def undo(self) -> None:
        self._set(resource.RLIM_INFINITY)

    def _set(self, most: int) -> None:
        if self.service.is_running:
            _, hard = self.service.process.rlimit(self.kind)
            self.service.process.rlimit(self.kind, (most, hard))


async def _disk(cluster: Cluster, chance: random.Random) -> Fault:
    return Limit(cluster.services[chance.choice(list(cluster.services))], psutil.RLIMIT_FSIZE, 0)


async def _memory(cluster: Cluster, chance: random.Random) -> Fault:
    service = cluster.services[chance.choice(list(cluster.services))]
    taken = service.process.memory_info().vms
    return Limit(service, psutil.RLIMIT_AS, taken + chance.randint(*_SPARE_BYTES))


MACHINE = (
    Kind("a service: disk full", _disk, (0.5, 1.5)),
    Kind("a service: memory full", _memory, (0.5, 1.5)),
)
