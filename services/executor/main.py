"""`quire executor`: one model on one device, driven by a scheduler."""

import logging
import os

import grpc
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from quire.engine.config import ExecutorConfig
from quire.engine.executor import Executor
from quire.engine.model.source import model_name, resolve_model
from quire.engine.step_observer import StepObserver
from quire.engine.trace import Trace
from quire.internal.v1 import executor_pb2_grpc
from quire.protos.address import Address
from quire.services.common.health import ENDS
from quire.services.common.metrics.meter import Meter
from quire.services.common.metrics.serving import metrics_serving
from quire.services.common.security import log_refusal
from quire.services.common.server import serving
from quire.services.common.settings import MeasuredSettings
from quire.services.common.signals import ending_at_once, run_service, until_signal
from quire.services.common.tracing import tracing
from quire.services.common.watchdog import watching
from quire.services.executor.gauges import Gauges
from quire.services.executor.meter import ExecutorMeter
from quire.services.executor.metrics import METRICS
from quire.services.executor.servicer import ExecutorServicer
from quire.services.executor.slot_spans import SlotSpans

logger = logging.getLogger(__name__)

# What the step that runs has to end by itself, behind the time for sequences.
STEP_SECONDS = 5.0
SERVICES = ("quire.internal.v1.ExecutorService",)


class Settings(MeasuredSettings, ExecutorConfig):
    """Serve one model on one device to a scheduler."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_EXECUTOR_")

    listen: Address = "127.0.0.1:8003"
    """host:port to listen on; port 0 chooses a free one."""

    spare: bool = False
    """Be loaded and idle until another executor is lost or drains, and take requests in its place until it is back."""

    drain_seconds: float = Field(5.0, ge=0)
    """How long the sequences that run here may go on after SIGINT or SIGTERM; the others move at once."""


def run(settings: Settings) -> int:
    """Runs until SIGINT or SIGTERM; returns the exit code."""
    config = ExecutorConfig(**settings.model_dump(include=set(ExecutorConfig.model_fields)))
    with ending_at_once():
        executor = Executor(config)
    with tracing(settings, "executor") as tracer:
        spans = None if tracer is None else SlotSpans(tracer, config.max_batch_size)
        run_service(_serve(settings, executor, spans))
    return 0


async def _serve(settings: Settings, executor: Executor, spans: SlotSpans | None) -> None:
    observers: list[StepObserver] = [] if spans is None else [spans]
    if settings.trace_dir is not None:
        observers.append(Trace(settings.trace_dir, "executor"))
    meter = Meter(METRICS, {})
    if settings.metrics_listen:
        observers.append(ExecutorMeter(meter))
    servicer = ExecutorServicer(executor, observers, settings.spare)
    name = model_name(settings.model, resolve_model(settings.model))
    meter.before_each(Gauges(meter, name, executor, servicer).refresh)

    def register(server: grpc.aio.Server) -> None:
        executor_pb2_grpc.add_ExecutorServiceServicer_to_server(servicer, server)

    # The step that runs may end; the scheduler then finds the stream closed and moves the sequences.
    async with (
        metrics_serving(settings.metrics_listen, meter),
        serving(
            settings.listen,
            ["quire.internal.v1.ExecutorService"],
            register,
            0.5,
            keepalive=settings.keepalive,
            on_refusal=log_refusal,
            security=settings.security,
        ) as health,
        watching(settings.stall_seconds, servicer.activities),
    ):
        await health.set("")
        await until_signal()
        await health.set(ENDS)
        await servicer.drain(settings.drain_seconds)
    if spans is not None:
        spans.close()
    if not servicer.end(STEP_SECONDS):
        logger.error("the step that runs does not end within %g s; it ends with the process", STEP_SECONDS)
        # In order, what it computes with would be freed under it.
        os._exit(1)
