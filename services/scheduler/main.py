"""`quire scheduler`: takes requests from frontends and drives executors."""

import asyncio
import importlib
import logging
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from quire.engine.api.errors import LedgerUnreachable, PluginError, StaleEpoch, StartupError
from quire.engine.api.limits import MAX_COUNTER
from quire.engine.config import SchedulerConfig
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.connection import RedisUrl, redacted
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.scheduling.plugins import components
from quire.engine.trace import Trace
from quire.internal.v1 import scheduler_pb2_grpc
from quire.protos.address import Address, Addresses
from quire.services.common.metrics.meter import Meter
from quire.services.common.metrics.serving import metrics_serving
from quire.services.common.server import Health, serving
from quire.services.common.settings import MeasuredSettings
from quire.services.common.signals import until_signal
from quire.services.common.tracing import tracing
from quire.services.extras import check_extras
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.fleet import Fleet
from quire.services.scheduler.gauges import Gauges
from quire.services.scheduler.kv_events import KVEvents
from quire.services.scheduler.kv_events_servicer import KVEventsServicer
from quire.services.scheduler.meter import SchedulerMeter
from quire.services.scheduler.metrics import METRICS
from quire.services.scheduler.observer import SchedulerObserver
from quire.services.scheduler.request_spans import RequestSpans
from quire.services.scheduler.servicer import SchedulerServicer
from quire.services.scheduler.supervisor import Supervisor
from quire.services.scheduler.timeline import Timeline
from quire.services.scheduler.watch.journal import Journal
from quire.services.scheduler.watch.watch import Watch
from quire.v1 import kv_events_pb2_grpc

if TYPE_CHECKING:
    from quire.services.common.otlp import Tracer

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=BaseException)
SERVICES: Final = ("quire.internal.v1.SchedulerService", "quire.v1.KVEventsService")


class Settings(MeasuredSettings, SchedulerConfig):
    """Take requests from frontends and drive executors, with the books in Redis."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_SCHEDULER_")

    listen: Address = "127.0.0.1:8002"
    """host:port to listen on; port 0 chooses a free one."""

    redis: RedisUrl = "redis://127.0.0.1:6379/0"
    """URL of the Redis that holds the ledger: redis, rediss, unix, redis+sentinel or redis+cluster."""

    executors: Addresses = "127.0.0.1:8003"
    """Executors' host:port, separated by commas; dns:name:port stands for every address that the name has, now
    and later."""

    kv_events_zmq: str | None = None
    """ZeroMQ address to publish changes of the prefix caches at, in the form that vLLM has: tcp://*:5557 listens, an
    address without a wildcard is connected to; default: they are not published so. gRPC always has them."""

    kv_events_zmq_replay: str | None = None
    """ZeroMQ address at which subscribers ask again for batches that they have missed, such as tcp://*:5558."""

    kv_events_zmq_kept: int = Field(10_000, ge=1)
    """Batches kept for those who ask again."""

    kv_events_model: str = ""
    """Model's name in ZeroMQ topics, as clients name it: kv@EXECUTOR@MODEL."""


def run(settings: Settings) -> int:
    """Runs until SIGINT or SIGTERM; returns the exit code."""
    with tracing(settings, "scheduler") as tracer:
        return asyncio.run(_serve(settings, tracer))


async def _serve(settings: Settings, tracer: "Tracer | None") -> int:
    # What does not exist is refused now, not when the first executor comes.
    components(settings)
    if settings.kv_events_zmq is not None:
        check_extras(["kv-events"])
    elif settings.kv_events_zmq_replay is not None:
        raise StartupError("--kv-events-zmq-replay: needs --kv-events-zmq, where what it repeats was published")
    ledger = _connect(settings.redis)
    try:
        epoch = await ledger.next_epoch()
        while (stale := await _lead(settings, ledger, epoch, tracer)) is not None:
            # An epoch that the ledger never gave out is from before it lost its counter, not of a rival.
            if stale.owner <= await ledger.last_epoch():
                logger.error("stepping down: %s", stale)
                return 1
            epoch = await ledger.next_epoch(above=stale.owner)
    except LedgerUnreachable as error:
        raise StartupError(f"--redis {redacted(settings.redis)}: {error}") from error
    finally:
        await ledger.close()
    return 0


def _connect(url: str) -> RedisLedger:
    try:
        return RedisLedger.connect(url)
    except ValueError as error:
        raise StartupError(f"--redis {redacted(url)}: {error}") from error


async def _lead(settings: Settings, ledger: KVLedger, epoch: int, tracer: "Tracer | None") -> StaleEpoch | None:
    """Serves until a signal comes, or until it turns out that a higher epoch leads, which is returned."""
    logger.info("epoch %d", epoch)
    if epoch == MAX_COUNTER:
        logger.error("this is the last epoch, so a second scheduler would not displace this one; empty Redis soon")
    config = SchedulerConfig(**settings.model_dump(include=set(SchedulerConfig.model_fields)))
    journal = Journal()
    observers: list[SchedulerObserver] = [journal]
    if settings.trace_dir is not None:
        observers.append(Timeline(Trace(settings.trace_dir, f"scheduler-{epoch}")))
    meter = Meter(METRICS, {})
    measuring = SchedulerMeter(meter)
    if settings.metrics_listen:
        observers.append(measuring)
    if tracer is not None:
        observers.append(RequestSpans(tracer))
    dispatcher, kv_events = Dispatcher(epoch, observers), KVEvents()
    meter.before_each(Gauges(meter, measuring, dispatcher).refresh)
    dispatcher.notice(Event(EventKind.EPOCH_TAKEN, str(epoch)))
    watch = Watch(dispatcher, journal)
    connector = settings.connector

    def supervise(address: str) -> Supervisor:
        return Supervisor(address, config, ledger, epoch, dispatcher, kv_events, connector)

    fleet = Fleet(settings.executors.split(","), supervise)

    def register(server: grpc.aio.Server) -> None:
        kv_events_pb2_grpc.add_KVEventsServiceServicer_to_server(KVEventsServicer(kv_events), server)
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(SchedulerServicer(dispatcher, watch), server)

    stale: list[StaleEpoch] = []
    try:
        port = serving(
            settings.listen, SERVICES, register, 0.5, keepalive=settings.keepalive, security=settings.security
        )
        with _zmq_publisher(settings, kv_events, epoch) as publisher:
            async with metrics_serving(settings.metrics_listen, meter), port as health:
                work = [fleet.run(), _watch(dispatcher, health), dispatcher.report_load()]
                await _drive([*work, *([publisher.run()] if publisher else [])])
    except* StaleEpoch as group:
        stale.extend(_leaves(group))
    except* PluginError as group:
        raise StartupError(str(next(_leaves(group)))) from group
    return max(stale, key=lambda error: error.owner, default=None)


def _zmq_publisher(settings: Settings, kv_events: KVEvents, epoch: int) -> AbstractContextManager[Any]:
    """Whoever does not publish over ZeroMQ needs none of its packages."""
    if settings.kv_events_zmq is None:
        return nullcontext()
    module = importlib.import_module("quire.services.scheduler.kv_events_zmq")
    publisher: AbstractContextManager[Any] = module.zmq_publisher(
        kv_events,
        settings.kv_events_zmq,
        settings.kv_events_zmq_replay,
        settings.kv_events_model,
        settings.kv_events_zmq_kept,
        epoch,
    )
    return publisher


async def _drive(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Does all of it until a signal comes."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(each) for each in work]
        await until_signal()
        for task in running:
            task.cancel()


async def _watch(dispatcher: Dispatcher, health: Health) -> None:
    """SERVING as long as an executor is attached."""
    while True:
        await health.set(dispatcher.is_serving)
        await dispatcher.changed()


def _leaves(group: BaseExceptionGroup[E]) -> Iterator[E]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
