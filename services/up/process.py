"""A child process whose output is passed on line by line."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

from quire.services.common import bound

# Longer lines are cut into several.
LONGEST_LINE = 1 << 16
# Lines that are remembered of one whose output is kept back.
_NUM_HELD = 20
NO_SECRETS: Final = MappingProxyType[str, str]({})


class Program(NamedTuple):
    """What a child runs.

    Attributes:
        name: in front of its log lines and in messages.
        command: program and arguments, which every user of the machine can read.
        secrets: environment variables, which only this user can read.
        is_quiet: its output is kept back unless it fails.
        is_named: its name stands in front of its lines; not of JSON, whose objects have it.
        address: where it answers as long as it is not stuck: "host:port" of a gRPC server; "": nobody asks it.
    """

    name: str
    command: tuple[str, ...]
    secrets: Mapping[str, str] = NO_SECRETS
    is_quiet: bool = False
    is_named: bool = True
    address: str = ""


class Child:
    """A running child of `quire up`, in a session of its own, so that Ctrl-C reaches only us.

    It is asked to end when we end, in whichever way.

    Attributes:
        program: what it runs.
        last_line: the last one that it has written.
        is_stopping: it was asked to end, and has its own time for that.
    """

    def __init__(self, program: Program, process: Process) -> None:
        self.program = program
        self.last_line = ""
        self.is_stopping = False
        self._process = process
        self._log = asyncio.create_task(self._pass_on())

    @classmethod
    async def start(cls, program: Program) -> "Child":
        """
        Raises:
            OSError: the machine has no room for another process.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", bound.__file__, str(os.getpid())),
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **program.secrets},
        )
        return cls(program, process)

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Its exit code, once it has ended and its last line is passed on."""
        code = await self._process.wait()
        await self._log
        return code

    async def stop(self, timeout: float) -> int:
        """Asks it to end and waits `timeout` seconds; kills it if it does not."""
        self.is_stopping = True
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout):
                return await self.wait()
        except TimeoutError:
            say(f"{self.name} does not stop in {timeout:g} s; killing it")
            self.kill()
            return await self.wait()

    def kill(self) -> None:
        """It and its children, such as a compiler: a child that holds the output open would be waited for."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _pass_on(self) -> None:
        held: deque[str] = deque(maxlen=_NUM_HELD)
        assert self._process.stdout is not None
        async for line in _lines(self._process.stdout):
            self.last_line = line
            shown = f"{self.name:<9} | {line}" if self.program.is_named else line
            if self.program.is_quiet:
                held.append(shown)
            else:
                say(shown)
        if held and await self._process.wait() not in (0, -signal.SIGTERM, -signal.SIGKILL):
            say("\n".join(held))


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    rest = b""
    while piece := await stream.read(LONGEST_LINE):
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) >= LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            yield line.decode(errors="replace").rstrip()
    if rest:
        yield rest.decode(errors="replace").rstrip()


def say(text: str) -> None:
    """Writes a line for the user."""
    # A terminal that is gone is no reason to let a child wait for somebody who reads what it writes.
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
