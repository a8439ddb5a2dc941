"""All schedulers that a frontend knows: a stream to each, and which of them leads."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from quire.internal.v1 import scheduler_pb2 as pb
from quire.services.common.channel import DEFAULT_CONNECTOR, Connector
from quire.services.common.targets import RESOLVE_SECONDS, Targets
from quire.services.frontend.scheduler_stream import SchedulerStream


class Schedulers:
    """Follows the scheduler of the highest epoch of those that answer.

    A stream is open to each of them, so that a standby that takes over is heard at once, even while the leader before
    it hangs.

    Args:
        targets: where schedulers are.
        name: this frontend's, for their logs.
        follow: called with the stream of the scheduler that leads from now on; None: none does.
        receive: called with every message of that stream, the one that made it lead included.
        connector: how schedulers are reached.
    """

    def __init__(
        self,
        targets: Targets,
        name: str,
        follow: Callable[[SchedulerStream | None], None],
        receive: Callable[[pb.ConnectResponse], None],
        connector: Connector = DEFAULT_CONNECTOR,
    ) -> None:
        self._targets = targets
        self._name = name
        self._follow = follow
        self._receive = receive
        self._connector = connector
        self._streams: dict[str, SchedulerStream] = {}
        self._leader: SchedulerStream | None = None

    async def run(self) -> NoReturn:
        """Stays connected until cancelled."""
        running: dict[str, asyncio.Task[NoReturn]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                found = await self._targets.find()
                for address in sorted(found - running.keys()):
                    stream = SchedulerStream(address, self._name, self._on_message, self._on_end, self._connector)
                    self._streams[address] = stream
                    running[address] = tasks.create_task(stream.run())
                for address in running.keys() - found:
                    # A leader that is about to end may lose its name before it ends.
                    if self._streams[address] is not self._leader:
                        running.pop(address).cancel()
                        del self._streams[address]
                await asyncio.sleep(RESOLVE_SECONDS)

    def _on_message(self, stream: SchedulerStream, message: pb.ConnectResponse) -> None:
        if stream is not self._leader and stream.state.epoch > (self._leader.state.epoch if self._leader else 0):
            self._lead(stream)
        # What a former leader still sends is void: the new one begins with what has come so far.
        if stream is self._leader:
            self._receive(message)

    def _on_end(self, stream: SchedulerStream) -> None:
        if stream is not self._leader:
            return
        next_one = max(self._streams.values(), key=lambda each: each.state.epoch, default=stream)
        if next_one.state.epoch:
            self._lead(next_one)
            self._receive(pb.ConnectResponse(state=next_one.state))
        else:
            self._lead(None)

    def _lead(self, stream: SchedulerStream | None) -> None:
        if stream is not None and self._leader is not None:
            self._leader.leave()
        self._leader = stream
        self._follow(stream)
