"""A `Stack` of real services for tests, kept running by an event loop on a thread of its own."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from quire.clients.async_client import AsyncClient
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.redis import RedisLedger
from quire.services.up.ports import LOOPBACK, free_port
from quire.services.up.process import Child
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack, is_serving

T = TypeVar("T")
# Far more than it takes: a busy machine must not fail a test.
SETTLE_SECONDS = 60.0
# `make test-gpu` asks the request surface's tests again of executors on a GPU.
DEVICE = os.environ.get("QUIRE_TEST_DEVICE", "cpu")


class RunningStack:
    """Redis, executors, scheduler and frontend as processes, while the context is open."""

    def __init__(self, settings: UpSettings) -> None:
        self.stack = Stack(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stack", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.call(self.stack.start())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call(self.stack.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def frontend(self) -> str:
        return self.stack.frontend

    @property
    def http(self) -> str:
        return self.stack.http

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float = 120) -> T:
        """Runs a coroutine where the processes were started."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def child(self, name: str) -> Child:
        """The running process of this name: "frontend", "scheduler", "standby", "executor" (of several
        "executor0"), "redis".
        """
        return next(child for child in self.stack.children if child.name == name)

    def signal(self, name: str, number: signal.Signals) -> int:
        """Sends a signal to a process and returns its exit code; it leaves the stack."""
        child = self.child(name)
        self.stack.children.remove(child)
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(child.pid, number)
        return self.call(child.wait())

    def start(self, name: str) -> None:
        """Starts a process again that was ended, where it was; returns before it serves."""
        child = self.call(self.stack.launch(name))
        self.stack.children.insert(0, child)

    def until_serving(self) -> None:
        """Returns when tokens can be made: a frontend says so for a while after its scheduler has gone."""
        self.call(_is_one_serving(self.stack.schedulers))
        self.call(is_serving(self.frontend))

    async def assert_settled(self) -> None:
        """The books of every pool are sound, and nothing stays held."""
        ledger = RedisLedger.connect(self.stack.redis)
        deadline = time.monotonic() + SETTLE_SECONDS
        try:
            for name in self.stack.executors:
                while True:
                    found = await ledger.snapshot(name)
                    assert found is not None, f"pool {name} is not in the ledger"
                    identity, state = found
                    assert audit(state, identity.num_groups) == []
                    if not state.holds:
                        break
                    assert time.monotonic() < deadline, f"pool {name}: still held: {state.holds}"
                    await asyncio.sleep(0.02)
        finally:
            await ledger.close()


async def _is_one_serving(addresses: list[str]) -> None:
    asking = [asyncio.create_task(is_serving(address)) for address in addresses]
    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    for task in asking:
        task.cancel()


@contextmanager
def launch(model: Path, *, executor: dict[str, Any] | None = None, **changes: Any) -> Iterator[RunningStack]:
    """A stack on free ports with a model; at the end its books must be settled.

    Args:
        executor: further executor settings; without a dtype, the model computes in float32.
        changes: further fields of `UpSettings`.
    """
    ports = {"frontend_port": 0, "http_port": 0, "scheduler_port": 0, "executor_port": 0}
    config = {"model": str(model), "dtype": "float32", "device": DEVICE, **(executor or {})}
    changes = {"log_level": "warning", "drain_seconds": 0.5, **ports, **changes}
    with RunningStack(UpSettings(executor=config, **changes)) as running:
        yield running
        asyncio.run(running.assert_settled())


@contextmanager
def supervised(running: RunningStack) -> Iterator[None]:
    """Processes that end or are stuck are started again while the context is open, as `quire up` does."""
    supervising = asyncio.run_coroutine_threadsafe(running.stack.supervise(), running._loop)
    try:
        yield
    finally:
        supervising.cancel()


async def until_nothing_is_open(client: AsyncClient) -> None:
    """A frontend may still be at the end of calls whose requests have ended."""
    async with asyncio.timeout(SETTLE_SECONDS):
        while (await client.server()).num_requests:
            await asyncio.sleep(0.02)


async def start_frontend(stack: RunningStack, place: str, **settings: Any) -> Child:
    """One more frontend of the same scheduler; serves when this returns."""
    places = {"listen": place, "http_listen": "", "scheduler": stack.stack.schedulers[0], "drain_seconds": 0}
    child: Child = stack.call(Child.start(stack.stack.programs.service("another", "frontend", places | settings)))
    await is_serving(place)
    return child


@asynccontextmanager
async def another_frontend(stack: RunningStack, **settings: Any) -> AsyncIterator[str]:
    """The address of one, while the context is open."""
    place = f"{LOOPBACK}:{free_port()}"
    child = await start_frontend(stack, place, **settings)
    yield place
    assert stack.call(child.stop(60)) == 0
