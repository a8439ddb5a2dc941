"""Where the time of a step goes: spans in Chrome's trace format, one file per process.

Chrome's `about:tracing` and Perfetto draw them. Files of several processes can be joined (`benchmarks/timeline.py`),
since Linux's monotonic clock is the machine's. Format: "Trace Event Format", Google. Parts of a step are complete
events ("ph": "X"); requests, which overlap, are asynchronous ones ("b", "n", "e").
"""

import atexit
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal, TextIO, TypeAlias

from quire.engine.api.errors import StartupError

_FLUSH_EVENTS = 1000
Phase: TypeAlias = Literal["b", "n", "e"]


class Trace:
    """Collects spans of one process; thread-safe, and nothing but a comparison where there is no folder.

    Args:
        folder: where the file goes; None: nowhere.
        process: what the timeline calls this process.

    Raises:
        StartupError: the folder cannot be written to.
    """

    def __init__(self, folder: Path | None, process: str) -> None:
        self._file: TextIO | None = None
        self._events: list[dict[str, object]] = []
        self._lock = threading.Lock()
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._file = (folder / f"{process}-{os.getpid()}.json").open("w")
            except OSError as error:
                raise StartupError(f"trace_dir {folder}: {error.strerror}") from error
            name = {"name": "process_name", "ph": "M", "pid": os.getpid(), "args": {"name": process}}
            # Readers of this format do without the closing bracket, so that a killed process leaves a good file.
            self._file.write(f"[\n{json.dumps(name)}")
            atexit.register(self.flush)

    def span(self, name: str, step: int) -> AbstractContextManager[None]:
        """Notes how long the block takes.

        Args:
            step: number of the step that it belongs to.
        """
        return nullcontext() if self._file is None else self._timed(name, step)

    def request(self, phase: Phase, request: str, **about: object) -> None:
        """Notes that a request begins ("b"), goes on ("n") or ends ("e").

        Args:
            request: the same name each time; unique among those that have begun.
            about: what else the timeline says of it.
        """
        if self._file is not None:
            now = time.monotonic_ns() / 1000
            event = {"name": "request", "cat": "request", "ph": phase, "id": request, "tid": 0, "ts": now}
            self._add(event | {"args": about})

    def flush(self) -> None:
        """Writes out what was collected."""
        with self._lock:
            events, self._events = self._events, []
            if self._file is not None:
                self._file.writelines(f",\n{json.dumps(event | {'pid': os.getpid()})}" for event in events)
                self._file.flush()

    @contextmanager
    def _timed(self, name: str, step: int) -> Iterator[None]:
        began = time.monotonic_ns()
        try:
            yield
        finally:
            times = {"ts": began / 1000, "dur": (time.monotonic_ns() - began) / 1000}
            self._add({"name": name, "ph": "X", "tid": threading.get_native_id(), "args": {"step": step}} | times)

    def _add(self, event: dict[str, object]) -> None:
        self._events.append(event)
        if len(self._events) >= _FLUSH_EVENTS:
            self.flush()


NO_TRACE = Trace(None, "")
"""Collects nothing."""
