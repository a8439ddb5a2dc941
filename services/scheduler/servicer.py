"""quire.internal.v1.SchedulerService over the dispatcher."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from quire.engine.api.errors import InvalidRequest
from quire.engine.validation import check_range
from quire.internal.v1 import scheduler_pb2 as pb
from quire.internal.v1 import scheduler_pb2_grpc
from quire.services.common import wire
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.frontend_stream import FrontendStream
from quire.services.scheduler.watch.watch import Watch

logger = logging.getLogger(__name__)

# Characters of a frontend's name.
MAX_NAME = 512
_Context = grpc.aio.ServicerContext[pb.ConnectRequest, pb.ConnectResponse]
_WatchContext = grpc.aio.ServicerContext[pb.WatchRequest, pb.Snapshot]
_StatisticsContext = grpc.aio.ServicerContext[pb.GetStatisticsRequest, pb.GetStatisticsResponse]


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """One stream per frontend; when it ends, so does everything submitted on it. Others ask or watch."""

    def __init__(self, dispatcher: Dispatcher, watch: Watch) -> None:
        self._dispatcher = dispatcher
        self._watch = watch

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: _Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        stream = self._dispatcher.connect()
        reader = asyncio.create_task(self._read(request_iterator, stream))
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
            self._dispatcher.disconnect(stream)
            logger.info("frontend %d disconnected", stream.client)

    async def GetStatistics(
        self, request: pb.GetStatisticsRequest, context: _StatisticsContext
    ) -> pb.GetStatisticsResponse:
        return self._dispatcher.statistics()

    async def Watch(self, request: pb.WatchRequest, context: _WatchContext) -> AsyncIterator[pb.Snapshot]:
        async with aclosing(self._watch.follow()) as snapshots:
            async for snapshot in snapshots:
                yield snapshot

    async def _read(self, requests: AsyncIterator[pb.ConnectRequest], stream: FrontendStream) -> None:
        try:
            async for request in requests:
                self._take(request, stream)
        except InvalidRequest as error:
            logger.warning("frontend %d: its stream is ended: %s", stream.client, error)
            raise

    def _take(self, request: pb.ConnectRequest, stream: FrontendStream) -> None:
        """Raises `InvalidRequest` for what no message about a single request could answer."""
        if request.frontend:
            check_range("frontend", len(request.frontend), 0, MAX_NAME, "characters")
            logger.info("frontend %d connected: %s", stream.client, request.frontend)
        for submission in request.submissions:
            self._submit(submission, stream)
        for handle in request.cancels:
            self._dispatcher.cancel(stream, wire.handle_from_proto("cancels", handle))

    def _submit(self, submission: pb.Submission, stream: FrontendStream) -> None:
        handle = wire.handle_from_proto("handle", submission.handle)
        if handle in stream.sequences:
            raise InvalidRequest("handle", handle, "must not be open already")
        try:
            request = wire.submission_from_proto(stream.client, submission)
        except InvalidRequest as error:
            stream.end(handle, error)
        else:
            self._dispatcher.submit(stream, request)
