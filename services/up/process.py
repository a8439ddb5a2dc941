"""A child process whose output is passed on line by line."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from contextlib import suppress

# What a service has to end by itself before it is killed; above the frontend's drain time.
STOP_SECONDS = 15.0


class Child:
    """A running child of `quire up`, in a process group of its own, so that Ctrl-C reaches only us.

    Attributes:
        name: in front of its log lines and in messages.
    """

    def __init__(self, name: str, process: Process, quiet: bool) -> None:
        self.name = name
        self._process = process
        self._log = asyncio.create_task(self._pass_on(quiet))

    @classmethod
    async def start(cls, name: str, *command: str, quiet: bool = False) -> "Child":
        """Starts `command`; `quiet` keeps its output back unless it fails."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        return cls(name, process, quiet)

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

    async def stop(self) -> int:
        """Asks it to end and waits; kills it if it does not."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self.wait()
        except TimeoutError:
            print(f"{self.name} does not stop; killing it", file=sys.stderr)
            with suppress(ProcessLookupError):
                self._process.kill()
            return await self.wait()

    async def _pass_on(self, quiet: bool) -> None:
        held = []
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = f"{self.name:<9} | {line.decode(errors='replace').rstrip()}"
            if quiet:
                held.append(text)
            else:
                print(text, file=sys.stderr, flush=True)
        if await self._process.wait() not in (0, -signal.SIGTERM):
            print("\n".join(held[-20:]), file=sys.stderr)
