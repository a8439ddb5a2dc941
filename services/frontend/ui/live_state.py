"""What a frontend knows of the services around it, and how it tells browsers."""

import time
from base64 import b64encode
from collections import deque
from typing import Any, Final

from quire.engine.arrays import Int32Array
from quire.internal.v1 import scheduler_pb2 as pb
from quire.protos.block_map import apply_runs, new_map, pack_all

MAX_EVENTS: Final = 64
# Points of the curves, two a second.
MAX_POINTS: Final = 240
_LEVELS: Final = {pb.EVENT_LEVEL_FAULT: "fault", pb.EVENT_LEVEL_RECOVERY: "recovery"}


class LiveState:
    """Follows snapshots. An update says what has changed of block maps, events and curves; all else is said each time.

    Args:
        scheduler: its address.
    """

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        self._maps: dict[str, Int32Array] = {}
        self._executors: list[dict[str, Any]] = []
        self._requests: list[dict[str, Any]] = []
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._points: deque[dict[str, Any]] = deque(maxlen=MAX_POINTS)
        self._epoch = 0
        self._last_event = 0
        self._lost_at: float | None = None
        # None: it has not answered yet, well or ill.
        self._is_up: bool | None = None

    def take(self, snapshot: pb.Snapshot) -> dict[str, Any]:
        """Follows a snapshot; returns the update.

        Raises:
            InvalidRequest: its block runs are none.
        """
        events = self._new_events(snapshot)
        self._is_up, self._lost_at = True, None
        runs = {each.statistics.name: self._take_runs(each) for each in snapshot.executors}
        self._maps = {name: states for name, states in self._maps.items() if name in runs}
        self._executors = [_executor(each) for each in snapshot.executors]
        self._requests = [_request(each) for each in snapshot.requests]
        self._events.extend(events)
        point = _point(snapshot)
        self._points.append(point)
        executors = [each | runs[each["name"]] for each in self._executors]
        return self._common() | {"executors": executors, "events": events, "points": [point]}

    def lose(self, reason: str) -> dict[str, Any] | None:
        """The scheduler does not answer; returns the update, or None if that was known."""
        if self._lost_at is not None:
            return None
        self._is_up, self._lost_at = False, time.monotonic()
        event = _event("fault", f"scheduler {self._scheduler} is gone: {reason}")
        self._events.append(event)
        return self._common() | {"executors": None, "events": [event], "points": []}

    def whole(self) -> dict[str, Any]:
        """An update that says everything."""
        maps = {name: _runs(pack_all(states), is_whole=True) for name, states in self._maps.items()}
        executors = [each | maps.get(each["name"], _runs(b"", is_whole=False)) for each in self._executors]
        history = {"executors": executors, "events": list(self._events), "points": list(self._points)}
        return self._common() | history | {"whole": True}

    def _common(self) -> dict[str, Any]:
        scheduler = {"address": self._scheduler, "up": self._is_up, "epoch": self._epoch}
        return {"scheduler": scheduler, "requests": self._requests}

    def _new_events(self, snapshot: pb.Snapshot) -> list[dict[str, Any]]:
        """Events that have not been told yet; that the scheduler is back is one of this frontend's."""
        events = []
        if self._lost_at is not None:
            seconds = time.monotonic() - self._lost_at
            events.append(_event("recovery", f"scheduler {self._scheduler} is back after {seconds:.2f} s"))
        if snapshot.epoch != self._epoch:
            self._epoch, self._last_event = snapshot.epoch, 0
        for each in snapshot.events:
            if each.number > self._last_event:
                self._last_event = each.number
                events.append(_event(_LEVELS.get(each.level, "change"), each.text, each.time_ms))
        return events

    def _take_runs(self, executor: pb.ExecutorSnapshot) -> dict[str, Any]:
        name = executor.statistics.name
        if executor.is_whole:
            self._maps[name] = new_map(executor.statistics.num_blocks)
        if name in self._maps:
            apply_runs(self._maps[name], executor.block_runs)
        return _runs(executor.block_runs, executor.is_whole)


def _runs(packed: bytes, is_whole: bool) -> dict[str, Any]:
    return {"runs": b64encode(packed).decode(), "whole": is_whole}


def _executor(executor: pb.ExecutorSnapshot) -> dict[str, Any]:
    fields = executor.statistics.DESCRIPTOR.fields
    return {field.name: getattr(executor.statistics, field.name) for field in fields} | {
        "block_size": executor.block_size
    }


def _request(request: pb.RequestSnapshot) -> dict[str, Any]:
    return {
        field.name: getattr(request, field.name) for field in request.DESCRIPTOR.fields if field.name != "state"
    } | {"state": pb.RequestState.Name(request.state).removeprefix("REQUEST_STATE_").lower()}


def _event(level: str, text: str, time_ms: int | None = None) -> dict[str, Any]:
    return {"level": level, "text": text, "time": time.time_ns() // 1_000_000 if time_ms is None else time_ms}


def _point(snapshot: pb.Snapshot) -> dict[str, Any]:
    """A point of each curve; latencies in milliseconds, None where there is no sample."""
    figures = snapshot.figures
    seconds = figures.interval_ms / 1000
    statistics = [each.statistics for each in snapshot.executors]
    return {
        "time": snapshot.time_ms,
        "generated": round(figures.num_generated / seconds, 1),
        "context": round(figures.num_context / seconds, 1),
        "running": sum(each.num_running for each in statistics),
        "waiting": sum(each.num_waiting for each in statistics),
        "ttft": _latency(figures.time_to_first_token),
        "itl": _latency(figures.inter_token_latency),
    }


def _latency(latency: pb.Latency) -> list[float] | None:
    return [latency.p50_us / 1000, latency.p95_us / 1000] if latency.count else None
