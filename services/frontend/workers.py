"""Several frontends behind the same two ports: starts the processes, starts them again, and stops them."""

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from quire.engine.api.errors import StartupError
from quire.services.common import bound
from quire.services.common.channel import open_channel
from quire.services.common.held_port import HeldPort
from quire.services.common.liveness import until_silent
from quire.services.common.restarts import Pauses
from quire.services.common.signals import unless_signalled

logger = logging.getLogger(__name__)

# What a worker has to end by itself beside the time for its requests, before it is killed.
STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
# The workers' settings come from their order alone.
_ENVIRONMENT: Final = "QUIRE_FRONTEND_"


class Workers:
    """The processes of one frontend. The kernel spreads connections over them.

    Args:
        settings: of the frontend, as JSON takes them; the ports are `listen` and `http_listen`.
        number: of processes.
        drain_seconds: that their requests have to end.
        stall_seconds: that one may leave a question unanswered before it is started again.
    """

    def __init__(self, settings: Mapping[str, Any], number: int, drain_seconds: float, stall_seconds: float) -> None:
        self._settings = dict(settings)
        self._number = number
        self._stop_seconds = drain_seconds + STOP_SECONDS
        self._stall_seconds = stall_seconds
        self._running: dict[int, Process] = {}

    async def run(self) -> None:
        """Runs until a signal.

        Raises:
            StartupError: a port cannot be listened on, or a worker ended before it listened.
        """
        is_shared = bool(self._settings["reuse_port"])
        with (
            HeldPort("--listen", self._settings["listen"], is_shared) as port,
            HeldPort("--http-listen", self._settings["http_listen"], is_shared) as http_port,
            tempfile.TemporaryDirectory(prefix="quire-workers-") as folder,
        ):
            self._settings |= {"listen": port.address, "http_listen": http_port.address}
            try:
                await unless_signalled(self._supervise(Path(folder)))
            finally:
                await self._stop()

    async def _supervise(self, folder: Path) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for index in range(self._number):
                    tasks.create_task(self._keep(index, folder))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _keep(self, index: int, folder: Path) -> None:
        """One worker, which is started again whenever it has ended."""
        pauses, has_listened = Pauses(), False
        own = folder / f"{index}.sock"
        while True:
            own.unlink(missing_ok=True)
            began = time.monotonic()
            self._running[index] = process = await self._start(index, folder)
            logger.info("worker %d is process %d", index, process.pid)
            has_listened |= await _listens(process, own)
            code = await self._ended(process, f"unix:{own}")
            if not has_listened:
                raise StartupError(f"worker {index} ended with exit code {code} before it listened")
            pause = pauses.after(time.monotonic() - began)
            logger.warning("worker %d ended with exit code %d; starting it again in %g s", index, code, pause)
            await asyncio.sleep(pause)

    async def _ended(self, process: Process, address: str) -> int:
        """Its exit code, once it has ended by itself, or because it was stuck."""
        guarding = asyncio.create_task(self._guard(process, address))
        try:
            return await process.wait()
        finally:
            guarding.cancel()

    async def _guard(self, process: Process, address: str) -> None:
        """Kills a worker that has answered and does not any more."""
        async with open_channel(address) as channel:
            await channel.channel_ready()
            await until_silent(channel, self._stall_seconds)
        logger.error("process %d has not answered for %g s; killing it", process.pid, self._stall_seconds)
        with suppress(ProcessLookupError):
            process.kill()

    async def _start(self, index: int, folder: Path) -> Process:
        addresses = [f"unix:{folder / str(each)}.sock" for each in range(self._number)]
        order = {
            "settings": self._settings,
            "address": addresses[index],
            "siblings": addresses[:index] + addresses[index + 1 :],
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", bound.__file__, str(os.getpid())),
            *(sys.executable, "-m", "quire.services.frontend.worker"),
            stdin=PIPE,
            # Ctrl-C reaches only us.
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(_ENVIRONMENT)},
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        return process

    async def _stop(self) -> None:
        """Asks all to end, and kills those that do not."""
        running = [process for process in self._running.values() if process.returncode is None]
        for process in running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_seconds):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            for process in running:
                with suppress(ProcessLookupError):
                    process.kill()
            await asyncio.gather(*(process.wait() for process in running))


async def _listens(process: Process, own: Path) -> bool:
    """Whether it listens before it ends."""
    while process.returncode is None and not own.exists():
        await asyncio.sleep(_POLL_SECONDS)
    return own.exists()
