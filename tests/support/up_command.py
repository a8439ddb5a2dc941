"""`quire up` as its user has it: a process that is read line by line, and ended by Ctrl-C."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

# Far more than it takes: a busy machine must not fail a test.
SECONDS = 200.0


class Up:
    """A running `quire up`, which is read line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.seen: list[str] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def until(self, pattern: str) -> "re.Match[str]":
        """Reads until a line has the pattern."""
        while True:
            self.seen.append(self._lines.get(timeout=SECONDS))
            if found := re.search(pattern, self.seen[-1]):
                return found

    def child(self, command: str) -> psutil.Process:
        """The process that runs this command of `quire`."""
        children = psutil.Process(self.process.pid).children()
        return next(each for each in children if command in each.cmdline())

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(SECONDS)
        self._reader.join()
        while not self._lines.empty():
            self.seen.append(self._lines.get())
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)


@contextmanager
def up(*flags: str, **env: str) -> Iterator[Up]:
    ports = [f"--{name}-port=0" for name in ("frontend", "http", "scheduler", "executor")]
    command = [sys.executable, "-m", "quire.services.cli", "up", *ports, "--executor.num-blocks=64", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | env
    ) as process:
        try:
            yield Up(process)
        finally:
            process.kill()
