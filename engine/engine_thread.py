"""A text engine with its event loop on a thread of its own, for callers on every other."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from quire.engine.api.errors import RequestError, Unavailable
from quire.engine.text_engine import TextEngine
from quire.engine.worker_thread import EngineOwnThread

T = TypeVar("T")


class EngineThread:
    """Runs coroutines of one engine until it is closed. Thread-safe.

    Args:
        make: makes the engine; called on its event loop.
    """

    def __init__(self, make: Callable[[], TextEngine]) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = EngineOwnThread(target=_run, args=(self._loop,), name="quire-llm", daemon=True)
        self._thread.start()
        # None once it is closed.
        self._engine: TextEngine | None = None
        try:
            self._engine = asyncio.run_coroutine_threadsafe(_made(make), self._loop).result()
        finally:
            if self._engine is None:
                self._end_thread()

    def start(self, work: Callable[[TextEngine], Coroutine[Any, Any, T]]) -> Future[T]:
        """Runs a coroutine of the engine.

        Raises:
            Unavailable: it is closed.
            RequestError: this process is a fork of the one that made it.
        """
        self.check_process()
        with self._lock:
            if self._engine is not None:
                return asyncio.run_coroutine_threadsafe(work(self._engine), self._loop)
        raise Unavailable("this LLM is closed")

    def call(self, work: Callable[[TextEngine], Coroutine[Any, Any, T]]) -> T:
        """The result of a coroutine of the engine; raises what `start` and the coroutine raise."""
        future = self.start(work)
        try:
            return future.result()
        finally:
            future.cancel()  # what an interrupt of this thread leaves; nothing otherwise

    def check_process(self) -> None:
        """
        Raises:
            RequestError: this process is a fork of the one that made the engine, without its threads.
        """
        if os.getpid() != self._pid:
            raise RequestError(
                f"this LLM belongs to process {self._pid}, and process {os.getpid()} is a fork of it without its "
                "threads; make an LLM in the child, or start the child with the method 'spawn'"
            )

    def close(self) -> None:
        """Ends what runs, every thread, and frees the model's memory; harmless if closed already, or in a fork."""
        if os.getpid() != self._pid:
            # Only copies of objects of the other process: they never run again, and nobody is to hear of that.
            self._loop.set_exception_handler(_ignore)
            return
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(_end(engine), self._loop).result()
        finally:
            self._end_thread()
            del engine
            # Tensors in cycles of references would stay until the collector comes by.
            gc.collect()
            torch.cuda.empty_cache()

    def close_from_any_thread(self) -> None:
        """As `close`; on a thread for which `close` waits, where the collector of garbage may run, another closes."""
        if isinstance(threading.current_thread(), EngineOwnThread):
            threading.Thread(target=self.close, name="quire-close").start()
        else:
            self.close()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    pass


async def _made(make: Callable[[], TextEngine]) -> TextEngine:
    return make()


async def _end(engine: TextEngine) -> None:
    try:
        await engine.stop()
    finally:
        # Callers that still wait get an error before the loop ends.
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
