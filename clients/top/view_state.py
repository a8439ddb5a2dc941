"""What `quire top` knows of the services, as of the last snapshot."""

import time
from collections import deque
from typing import Final, NamedTuple

from quire.engine.arrays import Int32Array
from quire.internal.v1 import scheduler_pb2 as pb
from quire.protos.block_map import apply_runs, new_map

MAX_EVENTS: Final = 64


class Happening(NamedTuple):
    """An event, of the scheduler's or of this client's; `at` is Unix time in seconds."""

    at: float
    level: "pb.EventLevel.ValueType"
    text: str


class ViewState:
    """Follows snapshots.

    Attributes:
        snapshot: the last one.
        maps: block states by executor's name; none of a pool too large to be shown.
        happenings: the last events, the oldest first.
        is_lost: the scheduler does not answer.
    """

    def __init__(self) -> None:
        self.snapshot = pb.Snapshot()
        self.maps: dict[str, Int32Array] = {}
        self.happenings: deque[Happening] = deque(maxlen=MAX_EVENTS)
        self.is_lost = False
        self._last_event = 0

    def take(self, snapshot: pb.Snapshot) -> None:
        """
        Raises:
            InvalidRequest: its block runs are none.
        """
        if snapshot.epoch != self.snapshot.epoch:
            self._last_event = 0
        if self.is_lost:
            self._note(pb.EVENT_LEVEL_RECOVERY, "the scheduler is back")
        self.snapshot, self.is_lost = snapshot, False
        names = {each.statistics.name for each in snapshot.executors}
        self.maps = {name: states for name, states in self.maps.items() if name in names}
        for executor in snapshot.executors:
            name = executor.statistics.name
            if executor.is_whole:
                self.maps[name] = new_map(executor.statistics.num_blocks)
            if name in self.maps:
                apply_runs(self.maps[name], executor.block_runs)
        for event in snapshot.events:
            if event.number > self._last_event:
                self._last_event = event.number
                self.happenings.append(Happening(event.time_ms / 1000, event.level, event.text))

    def lose(self, reason: str) -> None:
        """The scheduler does not answer; said once."""
        if not self.is_lost:
            self.is_lost = True
            self._note(pb.EVENT_LEVEL_FAULT, f"the scheduler is gone: {reason}")

    def _note(self, level: "pb.EventLevel.ValueType", text: str) -> None:
        self.happenings.append(Happening(time.time(), level, text))
