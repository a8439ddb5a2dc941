"""`quire scheduler`: takes requests from frontends and drives executors."""

import asyncio
import logging
from collections.abc import Iterator
from typing import TypeVar

import grpc
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
from quire.services.common.server import Health, serving
from quire.services.common.settings import ServiceSettings
from quire.services.common.signals import until_signal
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.fleet import Fleet
from quire.services.scheduler.observer import SchedulerObserver
from quire.services.scheduler.servicer import SchedulerServicer
from quire.services.scheduler.supervisor import Supervisor
from quire.services.scheduler.timeline import Timeline

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=BaseException)


class Settings(ServiceSettings, SchedulerConfig):
    """Take requests from frontends and drive executors, with the books in Redis."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_SCHEDULER_")

    listen: Address = "127.0.0.1:8002"
    """host:port to listen on; port 0 chooses a free one."""

    redis: RedisUrl = "redis://127.0.0.1:6379/0"
    """URL of the Redis that holds the ledger: redis, rediss, unix, redis+sentinel or redis+cluster."""

    executors: Addresses = "127.0.0.1:8003"
    """Executors' host:port, separated by commas; dns:name:port stands for every address that the name has, now
    and later."""


def run(settings: Settings) -> int:
    """Runs until SIGINT or SIGTERM; returns the exit code."""
    return asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    # A plug-in that does not exist is refused now, not when the first executor comes.
    components(settings)
    ledger = _connect(settings.redis)
    try:
        epoch = await ledger.next_epoch()
        while (stale := await _lead(settings, ledger, epoch)) is not None:
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


async def _lead(settings: Settings, ledger: KVLedger, epoch: int) -> StaleEpoch | None:
    """Serves until a signal comes, or until it turns out that a higher epoch leads, which is returned."""
    logger.info("epoch %d", epoch)
    if epoch == MAX_COUNTER:
        logger.error("this is the last epoch, so a second scheduler would not displace this one; empty Redis soon")
    config = SchedulerConfig(**settings.model_dump(include=set(SchedulerConfig.model_fields)))
    observers: list[SchedulerObserver] = []
    if settings.trace_dir is not None:
        observers.append(Timeline(Trace(settings.trace_dir, f"scheduler-{epoch}")))
    dispatcher = Dispatcher(epoch, observers)
    dispatcher.notice(Event(EventKind.EPOCH_TAKEN, str(epoch)))

    def supervise(address: str) -> Supervisor:
        return Supervisor(address, config, ledger, epoch, dispatcher, settings.keepalive)

    fleet = Fleet(settings.executors.split(","), supervise)

    def register(server: grpc.aio.Server) -> None:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(SchedulerServicer(dispatcher), server)

    stale: list[StaleEpoch] = []
    try:
        async with serving(
            settings.listen, ["quire.internal.v1.SchedulerService"], register, grace=0.5, keepalive=settings.keepalive
        ) as health:
            await _drive(fleet, dispatcher, health)
    except* StaleEpoch as group:
        stale.extend(_leaves(group))
    except* PluginError as group:
        raise StartupError(str(next(_leaves(group)))) from group
    return max(stale, key=lambda error: error.owner, default=None)


async def _drive(fleet: Fleet, dispatcher: Dispatcher, health: Health) -> None:
    """Runs the fleet until a signal comes."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(fleet.run()), tasks.create_task(_watch(dispatcher, health))]
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
