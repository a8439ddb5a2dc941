"""One process of Quire that ends, hangs and starts again where it was."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from quire.services import cli
from quire.services.common.settings import to_flags

# Far more than it takes: a service that does not end is a fault of its own.
END_SECONDS = 20.0
# Imports are most of a start. They are done once, in a process that the others are forked from, so that faults follow
# each other faster.
_FORKS = get_context("forkserver")
# See prctl(2).
_PR_SET_PDEATHSIG = 1
_MAINS = [f"quire.services.{command}.main" for command in ("executor", "scheduler", "frontend")]
_FORKS.set_forkserver_preload([*_MAINS, "quire.engine.grammar.library"])


class Service:
    """A command of `quire` on a port of its own, with its log in a file.

    Args:
        name: as in "executor0"; the command is what comes before the number.
        address: that it listens on.
        flags: further settings.
        folder: for its log.

    Attributes:
        generation: how often it was ended or stopped.
        was_ended: its last process ended because somebody wanted it to.
        is_ready: it has served since it was started.
        pids: of all processes that it has been.
    """

    def __init__(self, name: str, address: str, flags: Mapping[str, object], folder: Path) -> None:
        self.name = name
        self.address = address
        self.generation = 0
        self.was_ended = False
        self.is_ready = False
        self.pids: list[int] = []
        self._command = [name.rstrip("0123456789"), *to_flags({"listen": address, **flags})]
        self._log = folder / f"{name}.log"
        self._process: ForkServerProcess | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """Of the last process, if it has ended; as of `subprocess`."""
        return None if self._process is None else self._process.exitcode

    @property
    def process(self) -> psutil.Process:
        """The process that runs, or ran last."""
        return psutil.Process(self.pids[-1])

    def start(self) -> None:
        """Starts it again if it does not run; returns before it serves."""
        if self.is_running:
            return
        self._process = _FORKS.Process(target=_run, args=(self._command, self._log), name=self.name)
        self._process.start()
        self.pids.append(self._process.pid or 0)
        self.was_ended = False

    async def end(self, number: signal.Signals) -> None:
        """Ends it by a signal, also while it is stopped; harmless if it does not run."""
        if self.is_running:
            self.generation += 1
            self.was_ended, self.is_ready = True, False
            self.send(number)
            self.send(signal.SIGCONT)
            await self.gone()

    def kill(self) -> None:
        """Ends it at once; harmless if it has ended."""
        self.was_ended = True
        self.send(signal.SIGKILL)

    async def gone(self) -> None:
        """Waits for its end; one that does not end is killed, and was not asked to end like that."""
        if self._process is not None:
            await asyncio.to_thread(self._process.join, END_SECONDS)
            if self.is_running:
                self.was_ended = False
                self._process.kill()
                await asyncio.to_thread(self._process.join)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it runs."""
        if number is signal.SIGSTOP:
            self.generation += 1
        if self.is_running:
            with suppress(ProcessLookupError):
                os.kill(self.pids[-1], number)


def _run(command: list[str], log: Path) -> None:
    """In the new process: as the command line does."""
    os.setsid()
    # Nothing is left if this run is killed: the process that it is forked from ends then.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    raise SystemExit(cli.main(command))
