"""Redis that is gone, emptied, set back, paused or full."""

import asyncio
import random
import resource
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from redis import RedisError

from chaos.cluster import Cluster
from chaos.fault import Fault, Kind
from support.redis_server import RedisServer

_MEMORY = ("CONFIG", "SET", "maxmemory")
_LEASE = "quire:{leader}:lease"
# Of a snapshot that is restored, in seconds.
_AGES = (0.1, 1.0)


@dataclass(frozen=True)
class Restart(Fault):
    """It is killed, and starts with what its files have.

    Attributes:
        files: that are lost meanwhile; None: they are kept.
    """

    redis: RedisServer
    files: Path | None = None

    async def apply(self) -> None:
        await asyncio.to_thread(self.redis.stop)
        for file in self.files.iterdir() if self.files else ():
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    async def undo(self) -> None:
        await asyncio.to_thread(self.redis.start)


@dataclass(frozen=True)
class Command(Fault):
    """Somebody sends it something, and then something else."""

    redis: RedisServer
    first: tuple[Any, ...]
    then: tuple[Any, ...] = ("PING",)

    async def apply(self) -> None:
        await self._call(*self.first)

    async def undo(self) -> None:
        await self._call(*self.then)

    async def _call(self, *command: Any) -> None:
        # Another fault may have it end, or refuse it, at the same time.
        with suppress(RedisError):
            await asyncio.to_thread(self.redis.call, *command)


# A snapshot is of one moment, and takes the place of everything at another one.
_KEEP = """
local kept = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  kept[#kept + 1] = key
  kept[#kept + 1] = redis.call('DUMP', key)
end
return kept
"""
_RESTORE = """
for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('DEL', key) end
for i = 1, #ARGV, 2 do redis.call('RESTORE', ARGV[i], 0, ARGV[i + 1]) end
"""


@dataclass(frozen=True)
class SetBack(Fault):
    """It is emptied, and gets the content that it had some time before."""

    redis: RedisServer
    kept: list[bytes] = field(default_factory=list)

    async def keep(self) -> None:
        """What it has now is what it gets."""
        with suppress(RedisError):
            self.kept.extend(await asyncio.to_thread(self.redis.call, "EVAL", _KEEP, 0))

    async def apply(self) -> None:
        with suppress(RedisError):
            await asyncio.to_thread(self.redis.call, "FLUSHALL")

    async def undo(self) -> None:
        with suppress(RedisError):
            await asyncio.to_thread(self.redis.call, "EVAL", _RESTORE, 0, *self.kept)


@dataclass(frozen=True)
class DiskFull(Fault):
    """It can write nothing more to its file."""

    redis: RedisServer

    async def apply(self) -> None:
        self._limit(0)

    async def undo(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, num_bytes: int) -> None:
        if (process := self.redis.process) is not None:
            _, most = process.rlimit(psutil.RLIMIT_FSIZE)
            process.rlimit(psutil.RLIMIT_FSIZE, (num_bytes, most))


@dataclass(frozen=True)
class Freeze(Fault):
    """Its process is stopped, and goes on."""

    redis: RedisServer

    async def apply(self) -> None:
        self.redis.send(signal.SIGSTOP)

    async def undo(self) -> None:
        self.redis.send(signal.SIGCONT)


def _kind(
    what: str, make: Callable[[Cluster, random.Random], Fault], lasts: tuple[float, float], is_whole: bool = True
) -> Kind:
    async def made(cluster: Cluster, chance: random.Random) -> Fault:
        return make(cluster, chance)

    return Kind(f"Redis: {what}", made, lasts, is_whole, limit=2.0)


def _command(*first: object, then: tuple[object, ...] = ("PING",)) -> Callable[[Cluster, random.Random], Fault]:
    return lambda cluster, chance: Command(cluster.redis, first, then)


async def _set_back(cluster: Cluster, chance: random.Random) -> Fault:
    fault = SetBack(cluster.redis)
    await fault.keep()
    await asyncio.sleep(chance.uniform(*_AGES))
    return fault


STORE = (
    _kind("SIGKILL", lambda cluster, chance: Restart(cluster.redis), (0.0, 1.0)),
    _kind("SIGKILL, its files are lost", lambda cluster, chance: Restart(cluster.redis, cluster.store), (0.0, 1.0)),
    _kind("SIGSTOP", lambda cluster, chance: Freeze(cluster.redis), (0.1, 1.5)),
    _kind("FLUSHALL", _command("FLUSHALL"), (0.0, 0.0), is_whole=False),
    _kind("CLIENT KILL", _command("CLIENT", "KILL", "TYPE", "normal"), (0.0, 0.0), is_whole=False),
    # The next command is answered when the pause is over.
    _kind("CLIENT PAUSE, short", _command("CLIENT", "PAUSE", 300), (0.0, 0.0)),
    _kind("CLIENT PAUSE, past the lease", _command("CLIENT", "PAUSE", 1200), (0.0, 0.0)),
    _kind("memory full", _command(*_MEMORY, 1, then=(*_MEMORY, 0)), (0.3, 1.5)),
    _kind("disk full", lambda cluster, chance: DiskFull(cluster.redis), (1.0, 2.0)),
    # What the lease is to Redis when its clock was set forward, or back.
    _kind("clock set forward", _command("PEXPIRE", _LEASE, 1), (0.0, 0.0), is_whole=False),
    _kind("clock set back", _command("PEXPIRE", _LEASE, 3_600_000), (0.0, 0.0), is_whole=False),
    Kind("Redis: an old snapshot is restored", _set_back, (0.0, 0.1), is_whole=True, limit=2.0),
)
