"""The `Adapters` that requests may name: what is loaded and unloaded, told to frontends, and kept for the next leader.

quire:{leader}:adapters    hash    name -> path and digest, as JSON
"""

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

from redis.asyncio import Redis, RedisCluster

from quire.engine.adapter_names import MAX_DIGEST, check_adapter_name, check_adapter_path, find_adapter
from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest, LedgerUnreachable, Unavailable
from quire.engine.resources.ledger.connection import reaching
from quire.engine.validation import check_range
from quire.services.scheduler.attached_executor import AttachedExecutor

logger = logging.getLogger(__name__)

_KEY: Final = "quire:{leader}:adapters"
# Between two looks at whether Redis has lost them.
_KEEP_SECONDS: Final = 1.0
# Between two attempts to load what the settings name.
_CONFIGURED_SECONDS: Final = 0.1


class Adapters:
    """Of one term of a scheduler.

    Args:
        redis: where they are kept; a client without `decode_responses`.
        executors: gives those that take requests.
        tell: is told of all whenever they have changed.
        configured: folders by name, which are loaded as soon as an executor is there.
        leads: whether this scheduler leads now. One that was stopped for a while may not write over what came after it.
    """

    def __init__(
        self,
        redis: Redis | RedisCluster,
        executors: Callable[[], Collection[AttachedExecutor]],
        tell: Callable[[Collection[Adapter]], None],
        configured: Mapping[str, str] = MappingProxyType({}),
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._leads = leads
        self._configured = dict(configured)
        self._redis, self._executors, self._tell = redis, executors, tell
        self._by_name: dict[str, Adapter] = {}
        # Changes follow one another.
        self._changing = asyncio.Lock()

    async def load(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        """Takes an adapter of a folder under a name, once every executor has read it.

        Raises:
            InvalidRequest: some executor cannot load it, they have different files there, or the name is that of
                another adapter which is not to be replaced.
            Unavailable: no executor is there, or Redis does not answer.
        """
        async with self._changing:
            adapter = await self._examined(name, path)
            known = self._by_name.get(name)
            if known is not None and known.digest != adapter.digest and not replace:
                raise InvalidRequest("name", name, f"must not be that of another adapter, {known.path}")
            await self._keep(name, adapter)
            self._by_name[name] = adapter
            logger.info("adapter %s: %s", name, path)
            self._tell(self._by_name.values())
            return adapter

    async def unload(self, name: str) -> None:
        """No further request may name it.

        Raises:
            InvalidRequest: there is none of this name.
            Unavailable: Redis does not answer.
        """
        async with self._changing:
            find_adapter("name", name, self._by_name)
            await self._keep(name, None)
            del self._by_name[name]
            logger.info("adapter %s is unloaded", name)
            self._tell(self._by_name.values())

    async def keep(self) -> NoReturn:
        """Takes over what the leader before has left, and writes all again whenever Redis has lost it."""
        await self._read()
        while True:
            await self._load_configured()
            await asyncio.sleep(_CONFIGURED_SECONDS if self._configured else _KEEP_SECONDS)
            try:
                async with self._changing:
                    kept = await self._kept()
                    for name, adapter in self._by_name.items():
                        if kept.get(name) != adapter and self._leads():
                            await self._write(name, adapter)
            except LedgerUnreachable as error:
                logger.debug("adapters are not kept: %s", error)

    async def _load_configured(self) -> None:
        for name, path in list(self._configured.items()):
            try:
                await self.load(name, path, replace=True)
            except Unavailable:
                return
            except InvalidRequest as error:
                logger.error("--adapters %s=%s: %s", name, path, error)
            del self._configured[name]

    async def _read(self) -> None:
        while True:
            try:
                kept = await self._kept()
                break
            except LedgerUnreachable:
                await asyncio.sleep(_KEEP_SECONDS)
        # What this term was told meanwhile counts.
        self._by_name = {**kept, **self._by_name}
        if self._by_name:
            self._tell(self._by_name.values())

    async def _kept(self) -> dict[str, Adapter]:
        """Those in Redis; raises `LedgerUnreachable` if it does not answer."""
        with reaching():
            found: Any = await self._redis.hgetall(_KEY)
        parsed = (_parsed(name.decode(errors="replace"), value) for name, value in found.items())
        return {adapter.name: adapter for adapter in parsed if adapter is not None}

    async def _examined(self, name: str, path: str) -> Adapter:
        executors = self._executors()
        if not executors:
            raise Unavailable("no executor is attached")
        found = await asyncio.gather(*(executor.loop.examine(name, path) for executor in executors))
        if len({adapter.digest for adapter in found}) > 1:
            raise InvalidRequest("path", path, f"must hold the same files for all {len(found)} executors")
        return found[0]

    async def _keep(self, name: str, adapter: Adapter | None) -> None:
        if not self._leads():
            raise Unavailable("this scheduler may lead no more")
        try:
            await self._write(name, adapter)
        except LedgerUnreachable as error:
            raise Unavailable(f"adapters cannot be kept: {error}") from error

    async def _write(self, name: str, adapter: Adapter | None) -> None:
        with reaching():
            if adapter is None:
                await self._redis.hdel(_KEY, name)
            else:
                await self._redis.hset(_KEY, name, json.dumps({"path": adapter.path, "digest": adapter.digest}))


def _parsed(name: str, value: bytes) -> Adapter | None:
    """What is in Redis may have been written by anybody."""
    try:
        fields = json.loads(value)
        adapter = Adapter(name, fields["path"], fields["digest"])
        check_adapter_name("name", adapter.name)
        check_adapter_path("path", adapter.path)
        check_range("digest", len(adapter.digest), 1, MAX_DIGEST, "characters")
    except (ValueError, TypeError, KeyError, InvalidRequest) as error:
        logger.warning("%s: %s is no adapter: %s", _KEY, name, error)
        return None
    return adapter
