"""`quire top`: executors with their blocks, requests, rates and faults, as the scheduler tells them."""

import sys
import time
from collections.abc import Iterator
from typing import Final

import grpc
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.live import Live

from quire.clients.errors import translated
from quire.clients.scheduler_settings import SchedulerSettings
from quire.clients.top.view import draw
from quire.clients.top.view_state import ViewState
from quire.engine.api.errors import QuireError
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
    """Returns the exit code: 0, or 1 if the scheduler does not answer and nothing else is waited for."""
    console = Console(highlight=False)
    try:
        credentials = settings.scheduler_credentials()
        with open_sync_channel(settings.scheduler, CHANNEL_OPTIONS, credentials) as channel:
            if settings.once or not console.is_terminal:
                _print_once(channel, settings, console)
            else:
                _show(channel, settings, console)
    except QuireError as error:
        print(f"quire top: error: --scheduler {settings.scheduler}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # It has no other end.
        return 0
    return 0


def _print_once(channel: grpc.Channel, settings: Settings, console: Console) -> None:
    state = ViewState()
    for _, snapshot in zip(
        range(_NUM_ONCE), _snapshots(channel, settings.scheduler_credentials().metadata, settings.timeout), strict=False
    ):
        state.take(snapshot)
    console.print(draw(state, settings.scheduler, console.width, height=sys.maxsize))


def _show(channel: grpc.Channel, settings: Settings, console: Console) -> None:
    state = ViewState()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                for snapshot in _snapshots(channel, settings.scheduler_credentials().metadata):
                    state.take(snapshot)
                    live.update(draw(state, settings.scheduler, *console.size), refresh=True)
            except QuireError as error:
                state.lose(str(error))
            live.update(draw(state, settings.scheduler, *console.size), refresh=True)
            time.sleep(RETRY_SECONDS)


def _snapshots(
    channel: grpc.Channel, metadata: tuple[tuple[str, str], ...], timeout: float | None = None
) -> Iterator[pb.Snapshot]:
    with translated():
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        yield from stub.Watch(pb.WatchRequest(), timeout=timeout, metadata=metadata)
