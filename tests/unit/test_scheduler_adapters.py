"""The adapters that a scheduler knows by name: for the next leader, in a Redis that forgets, with other files."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest, Unavailable
from quire.engine.resources.ledger.connection import connect
from quire.services.scheduler import adapters as module
from quire.services.scheduler.adapters import Adapters
from support.redis_server import RedisServer, guarded_redis

KEY = "quire:{leader}:adapters"
SECONDS = 30


class Executor:
    """Finds these digests in folders; refuses others."""

    def __init__(self, **digests: str) -> None:
        self._digests = digests

    async def examine(self, name: str, path: str) -> Adapter:
        if path not in self._digests:
            raise InvalidRequest("adapter", name, "must be a PEFT folder")
        return Adapter(name, path, self._digests[path])


class Told:
    """What frontends are told."""

    def __init__(self) -> None:
        self.adapters: list[Adapter] = []

    def __call__(self, adapters: Collection[Adapter]) -> None:
        self.adapters = list(adapters)

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(SECONDS):
            while [adapter.name for adapter in self.adapters] != list(names):
                await asyncio.sleep(0.01)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """With the users that the ledger gets, so that nothing is asked which they may not."""
    with guarded_redis(tmp_path, quire="secret", audit="other") as server:
        yield server


@asynccontextmanager
async def term(redis: RedisServer, executors: list[Executor], **more: Any) -> AsyncIterator[tuple[Adapters, Told]]:
    """Of one scheduler, and what it tells."""
    client = connect(f"redis://quire:secret@{redis.address}/0")
    told, attached = Told(), [SimpleNamespace(loop=each) for each in executors]
    adapters = Adapters(client, lambda: attached, told, **more)  # type: ignore[arg-type,return-value]
    keeping = asyncio.create_task(adapters.keep())
    try:
        yield adapters, told
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await client.aclose()


async def test_the_next_leader_knows_them(redis: RedisServer) -> None:
    executors = [Executor(one="1", two="2"), Executor(one="1", two="2")]
    async with term(redis, executors) as (adapters, told):
        first = await adapters.load("a", "one")
        await adapters.load("b", "two")
        await adapters.load("c", "two")
        await adapters.unload("c")
        assert [adapter.name for adapter in told.adapters] == ["a", "b"]
    async with term(redis, executors) as (adapters, told):
        await told.until("a", "b")
        assert told.adapters[0] == first
        with pytest.raises(InvalidRequest, match="name: must not be that of another adapter, one"):
            await adapters.load("a", "two")
        assert (await adapters.load("a", "one")) == first
        assert (await adapters.load("a", "two", replace=True)).digest == "2"
        with pytest.raises(InvalidRequest, match="name: must be one of 'a', 'b', got 'c'"):
            await adapters.unload("c")


async def test_a_redis_that_forgets(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEEP_SECONDS", 0.02)
    async with term(redis, [Executor(one="1")]) as (adapters, _):
        await adapters.load("a", "one")
        kept = await adapters._redis.hgetall(KEY)
        await adapters._redis.unlink(KEY)
        async with asyncio.timeout(SECONDS):
            while await adapters._redis.hgetall(KEY) != kept:
                await asyncio.sleep(0.01)


async def test_one_that_leads_no_more_writes_nothing(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEEP_SECONDS", 0.01)
    leads = [True]
    async with term(redis, [Executor(one="1")], leads=lambda: leads[0]) as (adapters, _):
        await adapters.load("a", "one")
        leads[0] = False
        await adapters._redis.unlink(KEY)
        await asyncio.sleep(0.2)
        assert await adapters._redis.hgetall(KEY) == {}
        with pytest.raises(Unavailable, match="may lead no more"):
            await adapters.load("b", "one")


async def test_what_others_have_written_is_left_out(redis: RedisServer) -> None:
    async with term(redis, [Executor(one="1")]) as (adapters, _):
        await adapters.load("a", "one")
        for name, value in ((b"\xff", b"{"), (b"b", b"[]"), (b"c", b'{"path": 1, "digest": "d"}'), (b"", b"{}")):
            await adapters._redis.hset(KEY, name, value)  # type: ignore[arg-type,misc]
        long = b'{"path": "p", "digest": "' + b"d" * 65 + b'"}'
        await adapters._redis.hset(KEY, "d", long)  # type: ignore[arg-type,misc]
    async with term(redis, []) as (_, told):
        await told.until("a")


async def test_executors_with_other_files(redis: RedisServer) -> None:
    async with term(redis, [Executor(one="1"), Executor(one="2")]) as (adapters, told):
        with pytest.raises(InvalidRequest, match="path: must hold the same files for all 2 executors, got 'one'"):
            await adapters.load("a", "one")
        with pytest.raises(InvalidRequest, match="adapter: must be a PEFT folder"):
            await adapters.load("a", "two")
        assert told.adapters == []
    async with term(redis, []) as (adapters, told):
        with pytest.raises(Unavailable, match="no executor is attached"):
            await adapters.load("a", "one")


async def test_those_of_the_settings(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """They come with the first executor; what is wrong is said, and holds up nothing."""
    executors: list[Executor] = []
    client = connect(f"redis://quire:secret@{redis.address}/0")
    told = Told()
    adapters = Adapters(
        client,
        lambda: [SimpleNamespace(loop=each) for each in executors],  # type: ignore[misc]
        told,
        {"a": "one", "wrong": "two"},
    )
    keeping = asyncio.create_task(adapters.keep())
    await asyncio.sleep(0.2)
    assert told.adapters == []
    executors.append(Executor(one="1"))
    await told.until("a")
    async with asyncio.timeout(SECONDS):
        while "--adapters wrong=two: adapter: must be a PEFT folder" not in caplog.text:
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await client.aclose()
