"""quire.v1.KVEventsService over the pools' changes."""

from collections.abc import AsyncIterator

import grpc

from quire.services.scheduler.kv_events import KVEvents
from quire.services.scheduler.kv_events_wire import change_to_proto
from quire.v1 import kv_events_pb2 as pb
from quire.v1 import kv_events_pb2_grpc

_Context = grpc.aio.ServicerContext[pb.SubscribeKVEventsRequest, pb.KVEventBatch]


class KVEventsServicer(kv_events_pb2_grpc.KVEventsServiceServicer):
    """A subscription for each call."""

    def __init__(self, events: KVEvents) -> None:
        self._events = events

    async def Subscribe(
        self, request: pb.SubscribeKVEventsRequest, context: _Context
    ) -> AsyncIterator[pb.KVEventBatch]:
        sequence = 0
        with self._events.subscribe() as subscription:
            # A client learns that it is subscribed, also while there is nothing to tell.
            await context.send_initial_metadata(())
            while True:
                for batch in change_to_proto(await subscription.next()):
                    sequence += 1
                    batch.sequence = sequence
                    batch.time.GetCurrentTime()
                    yield batch
