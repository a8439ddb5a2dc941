"""Links that are slow, cut, or swallow everything."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from chaos.cluster import Cluster
from chaos.fault import Fault, Kind
from chaos.link import Link
from chaos.processes import HANGS

# Less than what makes a lease end, there and back.
_DELAYS = (0.01, 0.08)


@dataclass(frozen=True)
class Slow(Fault):
    """Bytes take their time."""

    links: tuple[Link, ...]
    seconds: float

    async def apply(self) -> None:
        for link in self.links:
            link.delay = self.seconds

    async def undo(self) -> None:
        for link in self.links:
            link.delay = 0.0


@dataclass(frozen=True)
class Swallow(Fault):
    """Nothing arrives, in both directions."""

    links: tuple[Link, ...]

    async def apply(self) -> None:
        for link in self.links:
            link.swallow()

    async def undo(self) -> None:
        for link in self.links:
            link.heal()


@dataclass(frozen=True)
class Reset(Fault):
    """Connections end; new ones are taken."""

    links: tuple[Link, ...]

    async def apply(self) -> None:
        for link in self.links:
            link.reset()

    async def undo(self) -> None:
        """They are there again as soon as somebody connects."""


@dataclass(frozen=True)
class Refuse(Fault):
    """Connections end, and new ones are refused."""

    links: tuple[Link, ...]

    async def apply(self) -> None:
        for link in self.links:
            await link.close()

    async def undo(self) -> None:
        for link in self.links:
            await link.open()


_Choice = Callable[[Cluster, random.Random, str], Iterable[tuple[str, str]]]


def _to_executor(cluster: Cluster, chance: random.Random, leader: str) -> list[tuple[str, str]]:
    return [("*", chance.choice(cluster.executors))]


def _to_leader(cluster: Cluster, chance: random.Random, leader: str) -> list[tuple[str, str]]:
    return [(chance.choice(cluster.frontends), leader)]


def _to_redis(cluster: Cluster, chance: random.Random, leader: str) -> list[tuple[str, str]]:
    return [(leader, "redis")]


def _around_leader(cluster: Cluster, chance: random.Random, leader: str) -> list[tuple[str, str]]:
    return [(leader, "redis"), *((name, leader) for name in cluster.frontends)]


_CHOICES: dict[str, _Choice] = {
    "schedulers and an executor": _to_executor,
    "a frontend and the leader": _to_leader,
    "the leader and Redis": _to_redis,
    "the leader, Redis and frontends": _around_leader,
}


# There is one way to the leader, while it leads.
_WHOLE = "a frontend and the leader"


def _kind(between: str, what: str, fault: Callable[[tuple[Link, ...]], Fault], lasts: tuple[float, float]) -> Kind:
    async def make(cluster: Cluster, chance: random.Random) -> Fault:
        chosen = _CHOICES[between](cluster, chance, await cluster.leader())
        return fault(tuple(cluster.links[each] for each in chosen))

    return Kind(f"{between}: {what}", make, lasts, is_whole=between == _WHOLE)


def _slow(between: str) -> Kind:
    async def make(cluster: Cluster, chance: random.Random) -> Fault:
        chosen = _CHOICES[between](cluster, chance, await cluster.leader())
        return Slow(tuple(cluster.links[each] for each in chosen), chance.uniform(*_DELAYS))

    return Kind(f"{between}: slow", make, (0.5, 1.5))


NETWORK = tuple(
    kind
    for between in _CHOICES
    for kind in (
        _slow(between),
        _kind(between, "reset", Reset, (0.0, 0.1)),
        _kind(between, "refused", Refuse, (0.2, 1.5)),
        _kind(between, "nothing arrives, short", Swallow, (0.1, 0.6)),
        _kind(between, "nothing arrives", Swallow, HANGS),
    )
)
