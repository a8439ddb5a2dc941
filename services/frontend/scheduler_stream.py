"""The frontend's stream to one scheduler, opened again whenever it ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias

import grpc

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest, RequestError, Unavailable
from quire.internal.v1 import scheduler_pb2 as pb
from quire.internal.v1 import scheduler_pb2_grpc
from quire.protos.status import from_rpc_error, readable
from quire.services.common import wire
from quire.services.common.channel import DEFAULT_CONNECTOR, Connector
from quire.services.common.first_of import first_of
from quire.services.common.liveness import until_silent

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
_Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.ConnectRequest, pb.ConnectResponse]"


class SchedulerStream:
    """Messages to and from one scheduler, which leads or is a standby.

    Args:
        address: the scheduler's "host:port".
        name: this frontend's, for the scheduler's log.
        receive: called with this stream and what has come; raises `InvalidRequest` for what must not come.
        end: called with this stream when it has ended; another is opened then.
        connector: how the scheduler is reached.

    Attributes:
        state: what the scheduler can serve; its epoch is 0 unless the scheduler leads.
    """

    def __init__(
        self,
        address: str,
        name: str,
        receive: "Callable[[SchedulerStream, pb.ConnectResponse], None]",
        end: "Callable[[SchedulerStream], None]",
        connector: Connector = DEFAULT_CONNECTOR,
    ) -> None:
        self._address = address
        self._name = name
        self._receive = receive
        self._end = end
        self._connector = connector
        self.state = pb.ServingState()
        self._submissions: list[pb.Submission] = []
        self._cancels: list[int] = []
        self._outgoing = asyncio.Event()
        self._is_left = False

    def __str__(self) -> str:
        return f"scheduler {self._address}"

    def submit(self, submission: pb.Submission) -> None:
        """Sends it with all else that gathers until the last message has left."""
        self._submissions.append(submission)
        self._outgoing.set()

    def cancel(self, handle: int) -> None:
        """Sends it as a submission."""
        self._cancels.append(handle)
        self._outgoing.set()

    async def load_adapter(self, name: str, path: str, *, replace: bool) -> Adapter:
        """Has the scheduler take an adapter for requests to come; raises `RequestError` as it does."""
        response = await self._call(
            lambda stub: stub.LoadAdapter(
                pb.LoadAdapterRequest(name=name, path=path, replace=replace), metadata=self._connector.metadata
            )
        )
        return wire.adapter_from_proto("adapter", response.adapter)

    async def unload_adapter(self, name: str) -> None:
        """Has the scheduler give an adapter up; raises `RequestError` as it does."""
        await self._call(
            lambda stub: stub.UnloadAdapter(pb.UnloadAdapterRequest(name=name), metadata=self._connector.metadata)
        )

    async def _call(self, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        """A call of its own, beside the stream."""
        try:
            async with self._connector.open(self._address) as channel:
                return await ask(scheduler_pb2_grpc.SchedulerServiceStub(channel))
        except grpc.aio.AioRpcError as error:
            found = from_rpc_error(error)
            raise found if isinstance(found, RequestError) else Unavailable(str(found)) from error

    def leave(self) -> None:
        """Another scheduler leads. What is still on its way on this stream is for requests that go on there, so the
        stream is opened again before this scheduler may lead again.
        """
        self.state = pb.ServingState()
        self._is_left = True

    async def run(self) -> NoReturn:
        """Stays connected until cancelled."""
        last_warning = ""
        while True:
            warning = await self._connect()
            if warning != last_warning:
                logger.warning("%s%s", self, warning)
            last_warning = warning
            await asyncio.sleep(RETRY_SECONDS)

    async def _connect(self) -> str:
        """Stays connected until that ends; returns why it did, to follow the scheduler's address."""
        try:
            async with self._connector.open(self._address) as channel:
                stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
                call = stub.Connect(metadata=self._connector.metadata)
                try:
                    await first_of(self._converse(call), self._guard(channel))
                finally:
                    call.cancel()
        except grpc.aio.AioRpcError as error:
            return f": {readable(error.details() or '')}"
        except Unavailable as error:
            return f": {error}"
        except InvalidRequest as error:
            return f" sent what it must not: {error}"
        finally:
            self.state = pb.ServingState()
            self._end(self)
        return " leads no more" if self._is_left else " has ended the stream"

    async def _guard(self, channel: grpc.aio.Channel) -> NoReturn:
        """Raises `Unavailable` if the scheduler does not answer."""
        await until_silent(channel, self._connector.stall_seconds)
        raise Unavailable(f"it has not answered for {self._connector.stall_seconds:g} s")

    async def _converse(self, call: _Call) -> None:
        self._submissions, self._cancels, self._is_left = [], [], False
        await call.write(pb.ConnectRequest(frontend=self._name))
        writer = asyncio.create_task(self._write(call))
        try:
            async for response in call:
                if self._is_left:
                    return
                if response.HasField("state"):
                    wire.check_state(response.state)
                    self.state = response.state
                self._receive(self, response)
        finally:
            writer.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await writer

    async def _write(self, call: _Call) -> None:
        """Sends what has gathered since the last message as one message."""
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            if self._submissions or self._cancels:
                message = pb.ConnectRequest(submissions=self._submissions, cancels=self._cancels)
                self._submissions, self._cancels = [], []
                await call.write(message)
