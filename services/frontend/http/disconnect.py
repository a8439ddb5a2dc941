"""Work that is cancelled when its client leaves. The server reports that only when asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive


async def disconnected(receive: Receive) -> None:
    """Returns when the client has left; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancels what is awaited inside if the client leaves.

    Raises:
        ClientDisconnect: it has left.
    """
    working = asyncio.current_task()
    assert working is not None
    leaving = asyncio.create_task(disconnected(request.receive))
    # Cancelled before it is done, it cancels nothing.
    leaving.add_done_callback(lambda done: done.cancelled() or working.cancel())
    try:
        yield
    except asyncio.CancelledError:
        if leaving.done() and working.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving


async def leave(request: Request, error: Exception) -> Response:
    """Starlette's handler for a client that has left; the answer goes nowhere."""
    return Response(status_code=499)
