"""The other workers of a frontend: asked where only the one that has a request can answer."""

import asyncio
from collections.abc import Sequence
from typing import Final, Self, TypeAlias

import grpc

from quire.internal.v1 import worker_pb2, worker_pb2_grpc
from quire.protos.channel import CHANNEL_OPTIONS
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

_Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
# Metadata of a question among workers, which is not passed on.
ASKED_BY_SIBLING: Final = "quire-asked-by-sibling"
_METADATA: Final = ((ASKED_BY_SIBLING, "1"),)
# One that hangs holds up nobody for longer.
TIMEOUT_SECONDS: Final = 1.0


class Siblings:
    """An asynchronous context manager. One that does not answer has ended, and its requests with it.

    Args:
        addresses: of the others; none: the frontend is one process.
    """

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        self._addresses = addresses
        self._channels: list[grpc.aio.Channel] = []

    async def __aenter__(self) -> Self:
        self._channels = [grpc.aio.insecure_channel(each, options=CHANNEL_OPTIONS) for each in self._addresses]
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def abort(self, request: pb.AbortRequest, caller: _Metadata = ()) -> bool:
        """Ends the caller's requests of this id that they have; whether there were any.

        Args:
            caller: metadata that says who it is.
        """
        answers = await asyncio.gather(*(self._abort(channel, request, caller) for channel in self._channels))
        return any(answers)

    async def num_requests(self, caller: _Metadata = ()) -> int:
        """Requests that they have open."""
        return sum(await asyncio.gather(*(self._num_requests(channel, caller) for channel in self._channels)))

    async def metrics(self) -> list[str]:
        """What each of them has measured; of those that answer."""
        return [text for text in await asyncio.gather(*map(self._metrics, self._channels)) if text]

    async def _abort(self, channel: grpc.aio.Channel, request: pb.AbortRequest, caller: _Metadata) -> bool:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        try:
            return (await stub.Abort(request, timeout=TIMEOUT_SECONDS, metadata=(*_METADATA, *caller))).found
        except grpc.aio.AioRpcError:
            return False

    async def _num_requests(self, channel: grpc.aio.Channel, caller: _Metadata) -> int:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        try:
            metadata = (*_METADATA, *caller)
            answer = await stub.GetServer(pb.GetServerRequest(), timeout=TIMEOUT_SECONDS, metadata=metadata)
            return answer.num_requests
        except grpc.aio.AioRpcError:
            return 0

    async def _metrics(self, channel: grpc.aio.Channel) -> str:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        try:
            return (await stub.GetMetrics(worker_pb2.GetMetricsRequest(), timeout=TIMEOUT_SECONDS)).text
        except grpc.aio.AioRpcError:
            return ""
