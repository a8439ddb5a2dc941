"""Ending on request: what runs stops in order at the first signal, and at once at the second."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


@contextmanager
def ending_at_once() -> Iterator[None]:
    """SIGINT, unless it is ignored, ends the process meanwhile.

    An exception may be swallowed by an import, and nothing is to be tidied up yet.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_service(service: Coroutine[None, None, T]) -> T:
    """Result of what waits for its end by `until_signal`; an interrupt before that ends the process at once.

    `asyncio.run` alone would cancel it, and a gRPC server cannot be cancelled while it starts.
    """
    with ending_at_once():
        return asyncio.run(service)


async def until_signal() -> None:
    """Returns at the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.

    A SIGHUP that is ignored, as under nohup, stays so.
    """
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def on_signal(number: signal.Signals) -> None:
        logger.info("%s: shutting down", number.name)
        arrived.set()

    for each in numbers:
        loop.add_signal_handler(each, on_signal, each)
    try:
        await arrived.wait()
    finally:
        for each in numbers:
            loop.remove_signal_handler(each)


async def unless_signalled(
    work: Coroutine[None, None, T], before_end: Callable[[], Awaitable[None]] | None = None
) -> T | None:
    """Result of the work; None, with the work cancelled, if a signal of `until_signal` came first.

    Args:
        before_end: what a signal sets off; the work goes on until it is done.
    """
    signalled, working = asyncio.create_task(until_signal()), asyncio.create_task(work)
    try:
        await asyncio.wait((signalled, working), return_when=asyncio.FIRST_COMPLETED)
        if signalled.done():
            signalled.result()
            if before_end is not None:
                await before_end()
    finally:
        signalled.cancel()
        working.cancel()
        await asyncio.wait((signalled, working))
    return None if working.cancelled() else working.result()
