"""quire.internal.v1.SchedulerService over the dispatcher."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from quire.engine.adapter_names import check_adapter_name, check_adapter_path
from quire.engine.api.errors import InvalidRequest
from quire.engine.validation import check_range
from quire.internal.v1 import scheduler_pb2 as pb
from quire.internal.v1 import scheduler_pb2_grpc
from quire.services.common import wire
from quire.services.common.wire import MAX_NAME
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.frontend_stream import FrontendStream
from quire.services.scheduler.leadership import Leadership

logger = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[pb.ConnectRequest, pb.ConnectResponse]
_WatchContext = grpc.aio.ServicerContext[pb.WatchRequest, pb.Snapshot]
_StatisticsContext = grpc.aio.ServicerContext[pb.GetStatisticsRequest, pb.GetStatisticsResponse]


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """One stream per frontend; when it ends, so does everything submitted on it. Others ask or watch.

    While another scheduler leads, frontends' streams stay open and idle, so that they are there when this one takes
    over.
    """

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: _Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        yield pb.ConnectResponse(state=pb.ServingState())
        dispatcher = await self._leadership.began()
        stream = dispatcher.connect()
        reader = asyncio.create_task(self._read(request_iterator, dispatcher, stream))
        updates = asyncio.create_task(stream.next())
        try:
            while True:
                await asyncio.wait((reader, updates), return_when=asyncio.FIRST_COMPLETED)
                if reader.done():
                    reader.result()
                    return
                for message in updates.result():
                    yield message
                updates = asyncio.create_task(stream.next())
        finally:
            reader.cancel()
            updates.cancel()
            # The requests can be closed only when nobody reads them any more.
            await asyncio.gather(reader, updates, return_exceptions=True)
            dispatcher.disconnect(stream)
            logger.info("frontend %d disconnected", stream.client)

    async def GetStatistics(
        self, request: pb.GetStatisticsRequest, context: _StatisticsContext
    ) -> pb.GetStatisticsResponse:
        return self._leadership.dispatcher.statistics()

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: Any) -> pb.LoadAdapterResponse:
        check_adapter_name("name", request.name)
        check_adapter_path("path", request.path)
        loaded = await self._leadership.adapters.load(request.name, request.path, replace=request.replace)
        return pb.LoadAdapterResponse(adapter=wire.adapter_to_proto(loaded))

    async def UnloadAdapter(self, request: pb.UnloadAdapterRequest, context: Any) -> pb.UnloadAdapterResponse:
        check_adapter_name("name", request.name)
        await self._leadership.adapters.unload(request.name)
        return pb.UnloadAdapterResponse()

    async def Watch(self, request: pb.WatchRequest, context: _WatchContext) -> AsyncIterator[pb.Snapshot]:
        watch = self._leadership.watch
        async with aclosing(watch.follow()) as snapshots:
            async for snapshot in snapshots:
                yield snapshot
                if watch is not self._leadership.watch:
                    return

    async def _read(
        self, requests: AsyncIterator[pb.ConnectRequest], dispatcher: Dispatcher, stream: FrontendStream
    ) -> None:
        async for request in requests:
            _take(request, dispatcher, stream)


def _take(request: pb.ConnectRequest, dispatcher: Dispatcher, stream: FrontendStream) -> None:
    """Raises `InvalidRequest` for what no message about a single request could answer."""
    if request.frontend:
        check_range("frontend", len(request.frontend), 0, MAX_NAME, "characters")
        logger.info("frontend %d connected: %s", stream.client, request.frontend)
    for submission in request.submissions:
        _submit(submission, dispatcher, stream)
    for handle in request.cancels:
        dispatcher.cancel(stream, wire.handle_from_proto("cancels", handle))


def _submit(submission: pb.Submission, dispatcher: Dispatcher, stream: FrontendStream) -> None:
    handle = wire.handle_from_proto("handle", submission.handle)
    if handle in stream.sequences:
        raise InvalidRequest("handle", handle, "must not be open already")
    try:
        request = wire.submission_from_proto(stream.client, submission)
    except InvalidRequest as error:
        logger.warning("frontend %d: request %d is refused: %s", stream.client, handle, error)
        stream.end(handle, error)
    else:
        dispatcher.submit(stream, request)
