"""Changes of all pools over ZeroMQ, in the form that vLLM has published and routers read.

A message has three frames: topic, number (8 bytes, big-endian) and payload. The payload is MessagePack: [time, events,
rank], and an event is a list that begins with its name. Source: vllm/distributed/kv_events.py, KVEventBatch.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import zmq
import zmq.asyncio

from quire.engine.api.errors import Overloaded, StartupError
from quire.engine.resources.pool_change import PoolChange
from quire.engine.resources.prefix import hash_of
from quire.engine.resources.publication import Publication
from quire.services.scheduler.kv_events import KVEvents, Subscription

logger = logging.getLogger(__name__)

# Blocks in one message.
_MAX_BLOCKS: Final = 256
_MAX_QUEUED: Final = 100_000
# The device's memory, as routers call it: the tier that costs nothing to read.
_MEDIUM: Final = "GPU"
_MANY_EPOCHS: Final = 1 << 31
_END: Final = (-1).to_bytes(8, "big", signed=True)
_JOINED: Final = b"\x01"


class ZmqPublisher:
    """Publishes every change, keeps the last batches for replay, and tells newcomers what the pools hold.

    Args:
        events: the changes.
        publishing: an XPUB socket, which says when somebody subscribes.
        replaying: a ROUTER socket; None: there is no replay.
        model: its name in topics.
        num_kept: batches kept for replay.
        epoch: of the scheduler. Numbers begin with it, so that another scheduler's batches are a gap to a subscriber.
    """

    def __init__(
        self,
        events: KVEvents,
        publishing: zmq.asyncio.Socket,
        replaying: zmq.asyncio.Socket | None,
        model: str,
        num_kept: int,
        epoch: int,
    ) -> None:
        self._events = events
        self._publishing = publishing
        self._replaying = replaying
        self._model = model
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=num_kept)
        self._next = epoch % _MANY_EPOCHS << 32
        self._ranks: dict[str, int] = {}

    async def run(self) -> None:
        """Runs until cancelled."""
        with self._events.subscribe() as subscription:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._publish(subscription))
                tasks.create_task(self._welcome(subscription))
                if self._replaying is not None:
                    tasks.create_task(self._replay(subscription, self._replaying))

    async def _publish(self, subscription: Subscription) -> None:
        while True:
            try:
                change = await subscription.next()
            except Overloaded as error:
                logger.warning("KV events over ZeroMQ: %s", error)
                self._events.restart(subscription)
                continue
            rank = self._ranks.setdefault(change.pool, len(self._ranks))
            topic = f"kv@{change.pool}@{self._model}".encode()
            for part in change.parts(_MAX_BLOCKS):
                if events := list(_events(part)):
                    payload = msgspec.msgpack.encode([time.time(), events, rank])
                    await self._publishing.send_multipart([topic, self._next.to_bytes(8, "big"), payload])
                    self._sent.append((self._next, payload))
                    self._next += 1

    async def _welcome(self, subscription: Subscription) -> None:
        """Whoever joins has seen nothing: everybody is told everything again."""
        while True:
            if (await self._publishing.recv())[:1] == _JOINED:
                self._events.restart(subscription)

    async def _replay(self, subscription: Subscription, socket: zmq.asyncio.Socket) -> None:
        """Answers [number] with [number, payload] for each batch from there on, and with [-1, nothing] at the end."""
        while True:
            client, *request = await socket.recv_multipart()
            if len(request) != 2 or len(request[1]) != 8:
                logger.warning("KV events over ZeroMQ: a request for replay must be one number of 8 bytes")
                continue
            first = int.from_bytes(request[1], "big")
            kept = [(number, payload) for number, payload in self._sent if number >= first]
            for number, payload in kept:
                await socket.send_multipart([client, b"", number.to_bytes(8, "big"), payload])
            await socket.send_multipart([client, b"", _END, b""])
            if first < self._next and (not kept or kept[0][0] > first):
                self._events.restart(subscription)


@contextmanager
def zmq_publisher(
    events: KVEvents, endpoint: str, replay_endpoint: str | None, model: str, num_kept: int, epoch: int
) -> Iterator[ZmqPublisher]:
    """A publisher whose sockets are open while the context is.

    Raises:
        StartupError: an address cannot be used.
    """
    context = zmq.asyncio.Context()
    try:
        publishing = _socket(context, zmq.XPUB, "kv-events-zmq", endpoint)
        replaying = replay_endpoint and _socket(context, zmq.ROUTER, "kv-events-zmq-replay", replay_endpoint)
        yield ZmqPublisher(events, publishing, replaying or None, model, num_kept, epoch)
    finally:
        context.destroy(linger=0)


def _socket(context: zmq.asyncio.Context, kind: int, setting: str, endpoint: str) -> zmq.asyncio.Socket:
    """Listens at an address with a wildcard, as vLLM does, and connects to any other."""
    socket = context.socket(kind)
    socket.set_hwm(_MAX_QUEUED)
    if kind == zmq.XPUB:
        # Say also when somebody subscribes to what others do.
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    try:
        if "*" in endpoint or "::" in endpoint or endpoint.startswith("ipc://"):
            socket.bind(endpoint)
        else:
            socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise StartupError(f"--{setting} {endpoint}: {error.strerror}") from error
    return socket


def _events(change: PoolChange) -> Iterator[list[Any]]:
    """Events by position: name, hashes, and what vLLM appends to them.

    A router finds blocks by their tokens. Blocks whose tokens it may not see, or that are not known, are left out.
    """
    if change.is_cleared:
        yield ["AllBlocksCleared"]
    for run in change.runs():
        if _is_open(run[0]):
            parent = _number(run[0].parent) if run[0].depth else None
            tokens = [token for publication in run for token in publication.tokens or ()]
            # Behind the block size: LoRA id, medium, LoRA name, extra keys, group.
            names, group = _numbers(run), run[0].group
            yield ["BlockStored", names, parent, tokens, change.block_size, None, _MEDIUM, None, None, group]
    for removed in change.evicted():
        if evicted := [publication for publication in removed if _is_open(publication)]:
            yield ["BlockRemoved", _numbers(evicted), _MEDIUM, evicted[0].group]


def _is_open(publication: Publication) -> bool:
    return publication.tokens is not None and not publication.is_salted


def _numbers(publications: Sequence[Publication]) -> list[int]:
    return [_number(publication.name) for publication in publications]


def _number(name: bytes) -> int:
    """The last 64 bits of a hash, as vLLM publishes hashes unless it is told otherwise."""
    return int.from_bytes(hash_of(name)[-8:], "big")
