"""`quire stats`: what waits, runs and is cached on every executor, as the scheduler counts it."""

import json
import sys
from typing import Any

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from quire.clients.errors import translated
from quire.clients.scheduler_settings import SchedulerSettings
from quire.engine.api.errors import QuireError
from quire.internal.v1 import scheduler_pb2 as pb
from quire.internal.v1 import scheduler_pb2_grpc
from quire.protos.channel import CHANNEL_OPTIONS
from quire.protos.credentials import open_sync_channel

COLUMNS = ("executor", "waiting", "running", "blocks", "free", "cached", "held", "steps", "pauses", "reused", "evicted")


class Settings(SchedulerSettings):
    """Prints a row for every executor that the scheduler drives."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_STATS_")

    timeout: float = Field(5.0, gt=0, allow_inf_nan=False)
    """Seconds that the answer may take."""

    json_output: bool = Field(False, alias="json")
    """Print one JSON object for programs."""


def run(settings: Settings) -> int:
    """Returns the exit code: 0, or 1 if the scheduler does not answer."""
    refusals = []
    for address in settings.scheduler.split(","):
        try:
            answer = _ask(address, settings)
        except QuireError as error:
            refusals.append(f"{address}: {error}")
        else:
            break
    else:
        print(f"quire stats: error: --scheduler {'; '.join(refusals)}", file=sys.stderr)
        return 1
    if settings.json_output:
        print(json.dumps({"epoch": answer.epoch, "executors": [_as_json(each) for each in answer.executors]}))
    else:
        print(_table(answer))
    return 0


def _ask(address: str, settings: Settings) -> pb.GetStatisticsResponse:
    credentials = settings.scheduler_credentials()
    with open_sync_channel(address, CHANNEL_OPTIONS, credentials) as channel, translated():
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        request = pb.GetStatisticsRequest()
        return stub.GetStatistics(request, timeout=settings.timeout, metadata=credentials.metadata)


def _as_json(each: pb.ExecutorStatistics) -> dict[str, Any]:
    return {field.name: getattr(each, field.name) for field in each.DESCRIPTOR.fields}


def _table(answer: pb.GetStatisticsResponse) -> str:
    rows = [COLUMNS, *map(_row, answer.executors)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([f"epoch {answer.epoch}, {len(answer.executors)} executors", *lines])


def _row(each: pb.ExecutorStatistics) -> tuple[str, ...]:
    reused = (each.num_reused_tokens + each.num_copied_tokens) / max(1, each.num_context_tokens)
    sequences = (each.num_waiting, each.num_running)
    blocks = (each.num_blocks, each.num_free, each.num_cached, each.num_held)
    done = (f"{each.num_steps:,}", f"{each.num_pauses:,}", f"{reused:.1%}", f"{each.num_evicted:,}")
    name = f"{each.name} (draining)" if each.is_draining else each.name
    return (name, *(f"{count:,}" for count in (*sequences, *blocks)), *done)
