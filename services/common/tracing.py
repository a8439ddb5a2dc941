"""Whether a service takes part in traces. OpenTelemetry is imported only then."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quire.engine.api.errors import StartupError
from quire.services.common.settings import ProcessSettings

if TYPE_CHECKING:
    from quire.services.common.otlp import Tracer


@contextmanager
def tracing(settings: ProcessSettings, service: str, sample: float | None = None) -> Iterator["Tracer | None"]:
    """The tracer of a service while the context is open; None: nothing is traced.

    Args:
        service: the command's name.
        sample: share of the traces that begin here that are recorded; None: as OTEL_TRACES_SAMPLER says, or all.

    Raises:
        StartupError: OpenTelemetry is not installed.
    """
    if settings.otlp_endpoint is None:
        yield None
        return
    try:
        otlp = importlib.import_module("quire.services.common.otlp")
        tracer: Tracer = otlp.Tracer(settings.otlp_endpoint, settings.otlp_protocol, f"quire-{service}", sample)
    except ImportError as error:
        raise StartupError(f"--otlp-endpoint: not installed: {error.name}; pip install 'quire[tracing]'") from error
    try:
        yield tracer
    finally:
        tracer.close()
