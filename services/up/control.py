"""The Unix socket at which a running `quire up` is told to replace its services, by its own user alone.

A connection brings one line of JSON, a `RolloutOrder`. It is answered with lines of JSON: {"text": what was done}, and
at the end {"error": what was not}, which is null if all was. If it closes before, nothing more is replaced.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from quire.engine.api.errors import StartupError
from quire.services.up.rollout import Rollout, RolloutError
from quire.services.up.stack import Stack

_LONGEST_ORDER: Final = 1 << 20


class RolloutOrder(BaseModel):
    """What `quire rollout` asks for; as of `Rollout`."""

    model_config = ConfigDict(frozen=True)

    changes: dict[str, Any]
    wait_seconds: float
    allows_pause: bool


def default_control(frontend_port: int) -> Path:
    """Where the stack with this port of the frontend listens; in a folder that is the user's alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime else Path(tempfile.gettempdir()) / f"quire-{os.getuid()}"
    return folder / f"quire-up-{frontend_port}.sock"


@asynccontextmanager
async def control_serving(place: Path, stack: Stack) -> AsyncIterator[None]:
    """Listens there while the context is open.

    Raises:
        StartupError: it cannot.
    """
    changing = asyncio.Lock()
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(ConnectionError, asyncio.IncompleteReadError):
            async with changing:
                error = await _roll(stack, reader, writer)
            await _say(writer, {"error": error})

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(task := asyncio.create_task(answer(reader, writer)))
        task.add_done_callback(answering.discard)

    server = await _listen(place, begin)
    try:
        yield
    finally:
        server.close()
        place.unlink(missing_ok=True)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


async def _listen(place: Path, begin: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]) -> asyncio.Server:
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.parent.stat().st_uid != os.getuid():
            raise StartupError(f"--control {place}: its folder belongs to somebody else")
        # What is there is of one that was killed: a port is never two stacks'.
        place.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(begin, place, limit=_LONGEST_ORDER)
        place.chmod(0o600)
    except OSError as error:
        raise StartupError(f"--control {place}: cannot listen there: {error.strerror or error}") from error
    return server


async def _roll(stack: Stack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
    """Does as it is told; what could not be done."""
    try:
        order = RolloutOrder.model_validate_json(await reader.readuntil())
        rollout = Rollout(stack, order.changes, order.wait_seconds, order.allows_pause)
        async with aclosing(rollout.run()) as steps:
            async for text in steps:
                await _say(writer, {"text": text})
                if reader.at_eof():
                    raise ConnectionResetError
    except (RolloutError, ValidationError) as error:
        return str(error)
    return None


async def _say(writer: asyncio.StreamWriter, message: dict[str, str | None]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()
