"""One thread that runs calls one after another."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class EngineOwnThread(threading.Thread):
    """A thread that the engine has started for itself, and waits for when it ends."""


class _Call(NamedTuple):
    future: Future[Any]
    function: Callable[[], Any]


_Calls = queue.SimpleQueue[_Call | None]


class WorkerThread(Executor):
    """Runs calls in their order on one thread.

    Unlike a `ThreadPoolExecutor` it takes calls until it is shut down, also while the interpreter waits for the
    program's other threads at the end.
    """

    def __init__(self, name: str) -> None:
        self._calls: _Calls = queue.SimpleQueue()
        self._lock, self._is_shut_down = threading.Lock(), False
        # The thread holds only the queue, so that it keeps nothing alive.
        self._thread = EngineOwnThread(target=_work, args=(self._calls,), name=name, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The result of `fn(*args, **kwargs)`, to come.

        Raises:
            RuntimeError: it is shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("this thread is shut down")
            self._calls.put(_Call(future, partial(fn, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the thread once it has run what was submitted; `cancel_futures`: without what it has not begun."""
        with self._lock:
            self._is_shut_down = True
            if cancel_futures:
                self._cancel()
            self._calls.put(None)
        if wait:
            self._thread.join()

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended, `timeout` seconds later at most; it does once it is shut down."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _cancel(self) -> None:
        with suppress(queue.Empty):
            while True:
                if (call := self._calls.get_nowait()) is not None:
                    call.future.cancel()


def _work(calls: _Calls) -> None:
    while (call := calls.get()) is not None:
        _run(call)
        del call  # what it refers to, such as a model, must not live until the next one comes


def _run(call: _Call) -> None:
    if not call.future.set_running_or_notify_cancel():
        return
    try:
        result = call.function()
    except BaseException as error:
        call.future.set_exception(error)
    else:
        call.future.set_result(result)
