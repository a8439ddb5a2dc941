"""`quire top`: executors with their blocks, requests, rates and faults, as the scheduler tells them."""

import sys
import time
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from typing import Final

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.live import Live

from quire.clients.errors import translated
from quire.clients.scheduler_settings import SchedulerSettings
from quire.clients.top.view import draw
from quire.clients.top.view_state import ViewState
from quire.engine.api.errors import QuireError, Unavailable
from quire.internal.v1 import scheduler_pb2 as pb
from quire.internal.v1 import scheduler_pb2_grpc
from quire.protos.channel import CHANNEL_OPTIONS
from quire.protos.credentials import open_sync_channel

RETRY_SECONDS: Final = 0.5
# Of `--once`: the second one has the rates of an interval.
_NUM_ONCE: Final = 2


class Settings(SchedulerSettings):
    """Shows what goes on in all services until Ctrl-C; once if the output is no terminal."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_TOP_")

    once: bool = False
    """Print what is now, and end."""

    timeout: float = Field(5.0, gt=0, allow_inf_nan=False)
    """Seconds that the answer may take, with `once`."""


def run(settings: Settings) -> int:
    """Returns the exit code: 0, or 1 if no scheduler answers and nothing else is waited for."""
    console = Console(highlight=False)
    try:
        if settings.once or not console.is_terminal:
            _print_once(settings, console)
        else:
            _show(settings, console)
    except QuireError as error:
        print(f"quire top: error: --scheduler {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # It has no other end.
        return 0
    return 0


def _print_once(settings: Settings, console: Console) -> None:
    state = ViewState()
    with closing(_snapshots(settings, settings.timeout)) as snapshots:
        for snapshot in islice(snapshots, _NUM_ONCE):
            state.take(snapshot)
    # Whoever reads lines from a pipe wants them whole.
    console.print(draw(state, settings.scheduler, console.width, height=sys.maxsize), soft_wrap=True)


def _show(settings: Settings, console: Console) -> None:
    state = ViewState()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                for snapshot in _snapshots(settings):
                    state.take(snapshot)
                    live.update(draw(state, settings.scheduler, *console.size), refresh=True)
            except QuireError as error:
                state.lose(str(error))
            live.update(draw(state, settings.scheduler, *console.size), refresh=True)
            time.sleep(RETRY_SECONDS)


def _snapshots(settings: Settings, timeout: float | None = None) -> Generator[pb.Snapshot]:
    """What the scheduler that leads tells.

    Raises:
        Unavailable: none of them does, or not any more.
    """
    refusals = []
    for address in settings.scheduler.split(","):
        try:
            yield from _watch(address, settings, timeout)
        except QuireError as error:
            refusals.append(f"{address}: {error}")
        else:
            return
    raise Unavailable("; ".join(refusals))


def _watch(address: str, settings: Settings, timeout: float | None) -> Generator[pb.Snapshot]:
    credentials = settings.scheduler_credentials()
    with open_sync_channel(address, CHANNEL_OPTIONS, credentials) as channel, translated():
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        yield from stub.Watch(pb.WatchRequest(), timeout=timeout, metadata=credentials.metadata)
