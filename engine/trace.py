"""Where the time of a step goes: spans in Chrome's trace format, one file per process.

Chrome's `about:tracing` and Perfetto draw them. Files of several processes can be joined (`benchmarks/timeline.py`),
since Linux's monotonic clock is the machine's. Format: "Trace Event Format", Google. Parts of a step are complete
events ("ph": "X"); requests, which overlap, are asynchronous ones ("b", "n", "e").
"""

import atexit
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Literal, TypeAlias

from quire.engine.api.errors import StartupError
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver

logger = logging.getLogger(__name__)

_FLUSH_EVENTS = 1000
Phase: TypeAlias = Literal["b", "n", "e"]


class Trace(StepObserver):
    """Collects spans of one process; thread-safe.

    Args:
        folder: where the file goes.
        process: what the timeline calls this process.

    Raises:
        StartupError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, process: str) -> None:
        self._events: list[dict[str, object]] = []
        self._lock = threading.Lock()
        self._is_over = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / f"{process}-{os.getpid()}.json").open("w")
        except OSError as error:
            raise StartupError(f"trace_dir {folder}: {error.strerror}") from error
        name = {"name": "process_name", "ph": "M", "pid": os.getpid(), "args": {"name": process}}
        # Readers of this format do without the closing bracket, so that a killed process leaves a good file.
        self._file.write(f"[\n{json.dumps(name)}")
        atexit.register(self.flush)

    def planned(self, plan: StepPlan, began: int, scheduled: int, committed: int, sent: int) -> None:
        self._span("schedule", plan.step, began, scheduled)
        self._span("commit", plan.step, scheduled, committed)
        self._span("send", plan.step, committed, sent)

    def updated(self, result: StepResult, num_tokens: int, began: int, received: int, updated: int) -> None:
        self._span("wait", result.step, began, received)
        self._span("update", result.step, received, updated)

    def computed(self, plan: StepPlan, result: StepResult, began: int, ended: int) -> None:
        self._span("execute", plan.step, began, ended)

    def request(self, phase: Phase, request: str, **about: object) -> None:
        """Notes that a request begins ("b"), goes on ("n") or ends ("e").

        Args:
            request: the same name each time; unique among those that have begun.
            about: what else the timeline says of it.
        """
        now = time.monotonic_ns() / 1000
        event = {"name": "request", "cat": "request", "ph": phase, "id": request, "tid": 0, "ts": now}
        self._add(event | {"args": about})

    def flush(self) -> None:
        """Writes out what was collected. When that fails, as on a full disk, the trace ends and the service goes on."""
        with self._lock:
            events, self._events = self._events, []
            if self._is_over:
                return
            try:
                self._file.writelines(f",\n{json.dumps(event | {'pid': os.getpid()})}" for event in events)
                self._file.flush()
            except OSError as error:
                self._is_over = True
                logger.error("the trace ends: %s: %s", self._file.name, error.strerror)

    def _span(self, name: str, step: int, began: int, ended: int) -> None:
        times = {"ts": began / 1000, "dur": (ended - began) / 1000}
        self._add({"name": name, "ph": "X", "tid": threading.get_native_id(), "args": {"step": step}} | times)

    def _add(self, event: dict[str, object]) -> None:
        self._events.append(event)
        if len(self._events) >= _FLUSH_EVENTS:
            self.flush()
