"""What `quire top` draws."""

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from quire.clients.top.block_bar import CACHED, FREE, HELD, block_bar
from quire.clients.top.view_state import Happening, ViewState
from quire.internal.v1 import scheduler_pb2 as pb

_LEVELS = {
    pb.EVENT_LEVEL_FAULT: ("fault", "red"),
    pb.EVENT_LEVEL_RECOVERY: ("recovery", "green"),
    pb.EVENT_LEVEL_CHANGE: ("change", "dim"),
}
# Lines of everything but the requests.
_NUM_EVENTS = 6
_FURNITURE = 8
_LINES_PER_EXECUTOR = 4


def draw(state: ViewState, scheduler: str, width: int, height: int) -> RenderableType:
    """All of it, for a terminal of this size."""
    executors = sorted(state.snapshot.executors, key=lambda each: each.statistics.name)
    num_requests = max(3, height - _FURNITURE - _NUM_EVENTS - _LINES_PER_EXECUTOR * len(executors))
    return Group(
        _head(state, scheduler),
        _figures(state),
        Text(),
        *(part for each in executors for part in _executor(each, state, width)),
        _requests(state, num_requests),
        Text(),
        *(_happening(each) for each in list(state.happenings)[-_NUM_EVENTS:]),
    )


def _head(state: ViewState, scheduler: str) -> Text:
    head = Text.assemble(("quire top", "bold"), f"  {scheduler}  epoch {state.snapshot.epoch}  ")
    head.append("the scheduler is gone" if state.is_lost else "", style="red")
    head.append(f"{HELD} held  {CACHED} cached  {FREE} free", style="dim")
    return head


def _figures(state: ViewState) -> Text:
    figures = state.snapshot.figures
    seconds = max(1, figures.interval_ms) / 1000
    rates = f"{figures.num_generated / seconds:,.0f} tokens/s  {figures.num_context / seconds:,.0f} prompt tokens/s"
    return Text(
        f"{rates}  first token {_latency(figures.time_to_first_token)}  "
        f"next token {_latency(figures.inter_token_latency)}"
    )


def _latency(latency: pb.Latency) -> str:
    if not latency.count:
        return "–"
    return f"{latency.p50_us / 1000:,.1f} ms, 95 % in {latency.p95_us / 1000:,.1f} ms"


def _executor(executor: pb.ExecutorSnapshot, state: ViewState, width: int) -> list[Text]:
    now = executor.statistics
    line = Text.assemble((now.name, "bold"), (" draining" if now.is_draining else "", "red"))
    line.append(f"  {now.num_running:,} running  {now.num_waiting:,} waiting  {now.num_blocks:,} blocks: ")
    line.append(f"{now.num_held:,} held, {now.num_cached:,} cached, {now.num_free:,} free")
    states = state.maps.get(now.name)
    return [line] if states is None else [line, block_bar(states, width)]


def _requests(state: ViewState, most: int) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    for name in ("request", "state", "executor"):
        table.add_column(name, no_wrap=True, ratio=2 if name == "request" else None)
    for name in ("prompt", "cached", "generated", "age"):
        table.add_column(name, justify="right")
    rows = [each for each in state.snapshot.requests if each.state != pb.REQUEST_STATE_ENDED]
    for row in rows[:most]:
        word = pb.RequestState.Name(row.state).removeprefix("REQUEST_STATE_").lower()
        numbers = (f"{each:,}" for each in (row.num_prompt, row.num_cached, row.num_generated))
        table.add_row(Text(row.request_id), word, Text(row.executor), *numbers, f"{row.age_ms / 1000:.1f} s")
    if len(rows) > most:
        table.add_row(f"and {len(rows) - most} others")
    elif not rows:
        table.add_row(Text("no request is open", style="dim"))
    return table


def _happening(happening: Happening) -> Text:
    word, style = _LEVELS.get(happening.level, ("", ""))
    clock = time.strftime("%H:%M:%S", time.localtime(happening.at))
    return Text.assemble((clock, "dim"), " ", (f"{word:<9}", style), happening.text)
