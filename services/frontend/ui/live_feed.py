"""One call to the scheduler for all browsers of this frontend, and what they are told."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, Final

import grpc

from quire.engine.api.errors import InvalidRequest, Overloaded, Unavailable
from quire.internal.v1 import scheduler_pb2 as pb
from quire.internal.v1 import scheduler_pb2_grpc
from quire.protos.status import readable
from quire.services.common.channel import Connector
from quire.services.common.targets import Targets
from quire.services.frontend.ui.live_state import LiveState

logger = logging.getLogger(__name__)

MAX_BROWSERS: Final = 64
RETRY_SECONDS: Final = 0.5
_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


class LiveFeed:
    """Watches the scheduler that leads while a browser is there.

    Args:
        schedulers: where they are; the one that leads is watched.
        connector: how they are reached.
        own: this frontend's own figures, as of now.
    """

    def __init__(self, schedulers: Targets, connector: Connector, own: Callable[[], dict[str, Any]]) -> None:
        self._schedulers = schedulers
        self._connector = connector
        self._own = own
        self._state = LiveState(str(schedulers))
        self._num_browsers = 0
        self._watching: asyncio.Task[None] | None = None
        self._number = 0
        self._latest = b""
        self._updated = asyncio.Event()

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events for one browser: all that is known, then updates. Who comes late for one gets all.

        Raises:
            Overloaded: too many browsers follow; from the first step.
        """
        if self._num_browsers >= MAX_BROWSERS:
            raise Overloaded(f"{self._num_browsers} browsers follow, at most {MAX_BROWSERS} may", RETRY_SECONDS)
        self._num_browsers += 1
        if self._watching is None:
            self._state = LiveState(str(self._schedulers))
            self._watching = asyncio.create_task(self._watch())
        try:
            message = self._encoded(self._state.whole())
            while True:
                number, updated = self._number, self._updated
                yield message
                await updated.wait()
                message = self._latest if self._number == number + 1 else self._encoded(self._state.whole())
        finally:
            self._num_browsers -= 1
            if not self._num_browsers:
                await self._stop()

    async def _stop(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _watch(self) -> None:
        """Follows the leader's snapshots until cancelled, whatever becomes of it."""
        while True:
            for address in sorted(await self._schedulers.find()):
                reason = await self._follow_once(address)
                if update := self._state.lose(reason):
                    logger.info("live page: scheduler %s: %s", address, reason)
                    self._publish(update)
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow_once(self, address: str) -> str:
        """Returns why the snapshots have ended, or why there are none: this one does not lead."""
        try:
            async with self._connector.open(address) as channel:
                stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
                async for snapshot in stub.Watch(pb.WatchRequest(), metadata=self._connector.metadata):
                    self._publish(self._state.take(snapshot))
        except grpc.aio.AioRpcError as error:
            return readable(error.details() or error.code().name)
        except Unavailable as error:
            return str(error)
        except InvalidRequest as error:
            return f"it sent what it must not: {error}"
        return "it has ended the call"

    def _publish(self, update: dict[str, Any]) -> None:
        self._number += 1
        self._latest = self._encoded(update)
        updated, self._updated = self._updated, asyncio.Event()
        updated.set()

    def _encoded(self, update: dict[str, Any]) -> bytes:
        return f"data: {_to_json(update | {'frontend': self._own()})}\n\n".encode()
