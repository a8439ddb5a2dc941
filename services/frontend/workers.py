"""Several frontends behind the same two ports: starts the processes, starts them again, and stops them."""

import asyncio
import json
import logging
import os
import signal
import socket
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
from quire.services.common.address import bound_socket, joined
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
    """

    def __init__(self, settings: Mapping[str, Any], number: int, drain_seconds: float) -> None:
        self._settings = dict(settings)
        self._number = number
        self._stop_seconds = drain_seconds + STOP_SECONDS
        self._running: dict[int, Process] = {}

    async def run(self) -> None:
        """Runs until a signal.

        Raises:
            StartupError: a port cannot be listened on, or a worker ended before it listened.
        """
        with (
            _Port("--listen", self._settings["listen"]) as port,
            _Port("--http-listen", self._settings["http_listen"]) as http_port,
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
            code = await process.wait()
            if not has_listened:
                raise StartupError(f"worker {index} ended with exit code {code} before it listened")
            pause = pauses.after(time.monotonic() - began)
            logger.warning("worker %d ended with exit code %d; starting it again in %g s", index, code, pause)
            await asyncio.sleep(pause)

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


class _Port:
    """A context manager that keeps a port for the workers.

    It is bound for this process alone and opened to others of this user then: a second frontend finds it in use.

    Attributes:
        address: "host:port" with the port's number; "" for none.
    """

    def __init__(self, flag: str, listen: str) -> None:
        self._socket: socket.socket | None = None
        self.address = listen
        if not listen:
            return
        try:
            self._socket = bound_socket(listen)
        except OSError as error:
            raise StartupError(f"{flag} {listen}: cannot listen there: {error.strerror}") from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.address = joined(listen.rpartition(":")[0], self._socket.getsockname()[1])

    def __enter__(self) -> "_Port":
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
