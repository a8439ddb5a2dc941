"""`quire scheduler`: takes requests from frontends and drives executors."""

import asyncio
import importlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import grpc
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from quire.engine.api.errors import LedgerUnreachable, PluginError, StaleEpoch, StartupError
from quire.engine.api.limits import MAX_COUNTER
from quire.engine.config import SchedulerConfig
from quire.engine.resources.ledger.connection import RedisUrl, redacted
from quire.engine.resources.ledger.lease import LeaderLease, Term
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.scheduling.plugins import components
from quire.engine.trace import Trace
from quire.internal.v1 import scheduler_pb2_grpc
from quire.protos.address import Address, Addresses
from quire.services.common.health import Health
from quire.services.common.metrics.meter import Meter
from quire.services.common.metrics.serving import metrics_serving
from quire.services.common.named_folders import NamedFolder, by_name
from quire.services.common.security import log_refusal
from quire.services.common.server import serving
from quire.services.common.settings import MeasuredSettings
from quire.services.common.signals import run_service, unless_signalled
from quire.services.common.targets import Targets
from quire.services.common.tracing import tracing
from quire.services.common.watchdog import watching
from quire.services.extras import check_extras
from quire.services.scheduler.adapters import Adapters
from quire.services.scheduler.candidate import Candidate
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.fleet import Fleet
from quire.services.scheduler.gauges import Gauges
from quire.services.scheduler.kv_events import KVEvents
from quire.services.scheduler.kv_events_servicer import KVEventsServicer
from quire.services.scheduler.leadership import Leadership
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

    redis_password_file: Path | None = None
    """File with the password of the user that the URL names, read for each connection; default: the URL has it, or
    there is none."""

    executors: Addresses = "127.0.0.1:8003"
    """Executors' host:port, separated by commas; dns:name:port stands for every address that the name has, now
    and later."""

    adapters: tuple[NamedFolder, ...] = ()
    """Low-rank adapters that requests may name, as NAME=FOLDER, where the executors find the folder; repeatable."""

    lease_seconds: float = Field(0.8, ge=0.1, le=60)
    """How long the lead outlasts a scheduler that dies: another one with the same Redis takes over then. It is renewed
    four times within this time; shorter ones are lost when the machine or Redis pauses."""

    drain_seconds: float = Field(0.0, ge=0)
    """How long open requests may go on after SIGINT or SIGTERM, while new ones are refused: for a scheduler without a
    standby. Where there is one, it goes on with them at once."""

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
        return run_service(_serve(settings, tracer))


async def _serve(settings: Settings, tracer: "Tracer | None") -> int:
    # What does not exist is refused now, not when the first executor comes.
    components(settings)
    if settings.kv_events_zmq is not None:
        check_extras(["kv-events"])
    elif settings.kv_events_zmq_replay is not None:
        raise StartupError("--kv-events-zmq-replay: needs --kv-events-zmq, where what it repeats was published")
    ledger = _connect(settings.redis, settings.redis_password_file)
    name = f"{socket.gethostname()}/{os.getpid()}/{token_hex(4)}"
    candidate = Candidate(LeaderLease(ledger.redis, name, settings.lease_seconds))
    service = _Service(settings, ledger, candidate, tracer)
    try:
        port = serving(
            settings.listen,
            SERVICES,
            service.register,
            grace=0.5,
            keepalive=settings.keepalive,
            on_refusal=log_refusal,
            security=settings.security,
        )
        watchdog = watching(settings.stall_seconds)
        async with metrics_serving(settings.metrics_listen, service.meter), port as health, watchdog:
            await unless_signalled(service.run(health), partial(service.leadership.finished, settings.drain_seconds))
            service.leadership.close()
    except LedgerUnreachable as error:
        raise StartupError(f"--redis {redacted(settings.redis)}: {error}") from error
    finally:
        await ledger.close()
    return 0


def _connect(url: str, password_file: Path | None) -> RedisLedger:
    try:
        return RedisLedger.connect(url, password_file=password_file)
    except ValueError as error:
        raise StartupError(f"--redis {redacted(url)}: {error}") from error


class _Service:
    """Is a standby and leads, in turn.

    Attributes:
        leadership: the term that is led, if one is.
        meter: of the process.
    """

    def __init__(self, settings: Settings, ledger: RedisLedger, candidate: Candidate, tracer: "Tracer | None") -> None:
        self._settings = settings
        self._ledger = ledger
        self._candidate = candidate
        self._tracer = tracer
        self._targets = Targets(settings.executors)
        # Files that cannot be read are refused now, not when this standby leads.
        self._connector = settings.connector
        self._kv_events = KVEvents()
        self.leadership = Leadership()
        self.meter = Meter(METRICS, {})
        self._measuring = SchedulerMeter(self.meter)
        self.meter.before_each(Gauges(self.meter, self._measuring, self.leadership).refresh)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds what this process answers to a server."""
        kv_events_pb2_grpc.add_KVEventsServiceServicer_to_server(KVEventsServicer(self._kv_events), server)
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(SchedulerServicer(self.leadership), server)

    async def run(self, health: Health) -> NoReturn:
        """Runs until cancelled."""
        epoch = 0
        while True:
            term = await self._candidate.elected(epoch, health.set)
            logger.info("epoch %d", term.epoch)
            if term.epoch == MAX_COUNTER:
                logger.error("this is the last epoch, so a standby would not displace this one; empty Redis soon")
            try:
                epoch = await self._lead(term, health)
            finally:
                await health.set("this scheduler leads no more")
                await self._candidate.resign(term)

    async def _lead(self, term: Term, health: Health) -> int:
        """Drives executors until another scheduler leads, or until cancelled; returns the highest epoch met."""
        settings = self._settings
        config = SchedulerConfig(**settings.model_dump(include=set(SchedulerConfig.model_fields)))
        journal = Journal()
        dispatcher = Dispatcher(term.epoch, self._observers(term.epoch, journal))
        dispatcher.notice(Event(EventKind.EPOCH_TAKEN, str(term.epoch)))

        adapters = Adapters(
            self._ledger.redis,
            lambda: dispatcher.open_executors,
            dispatcher.serve_adapters,
            by_name(settings.adapters),
            lambda: term.is_held,
        )

        def supervise(address: str) -> Supervisor:
            return Supervisor(address, config, self._ledger, term, dispatcher, self._kv_events, self._connector)

        try:
            with _zmq_publisher(settings, self._kv_events, term.epoch) as publisher:
                async with asyncio.TaskGroup() as tasks:
                    with self.leadership.lead(dispatcher, Watch(dispatcher, journal), adapters):
                        tasks.create_task(Fleet(self._targets, supervise).run())
                        tasks.create_task(_watch(dispatcher, health))
                        tasks.create_task(_watch_lease(dispatcher, term))
                        tasks.create_task(dispatcher.report_load())
                        tasks.create_task(adapters.keep())
                        if publisher:
                            tasks.create_task(publisher.run())
                        await self._candidate.keep(term)
        except* StaleEpoch as group:
            stale = max(_leaves(group), key=lambda error: error.owner)
        except* PluginError as group:
            raise StartupError(str(next(_leaves(group)))) from group
        logger.warning("leading no more: %s", stale)
        return stale.owner

    def _observers(self, epoch: int, journal: Journal) -> list[SchedulerObserver]:
        observers: list[SchedulerObserver] = [journal]
        if self._settings.trace_dir is not None:
            observers.append(Timeline(Trace(self._settings.trace_dir, f"scheduler-{epoch}")))
        if self._settings.metrics_listen:
            observers.append(self._measuring)
        if self._tracer is not None:
            observers.append(RequestSpans(self._tracer))
        return observers


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


async def _watch(dispatcher: Dispatcher, health: Health) -> None:
    """SERVING as long as tokens can be made."""
    while True:
        await health.set(dispatcher.not_serving_reason)
        await dispatcher.changed()


async def _watch_lease(dispatcher: Dispatcher, term: Term) -> NoReturn:
    """While the lease does not hold, no plan leaves."""
    while True:
        await term.lapsed()
        dispatcher.impede("Redis does not answer: the leader's lease cannot be renewed")
        await term.held()
        dispatcher.impede("")


def _leaves(group: BaseExceptionGroup[E]) -> Iterator[E]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
