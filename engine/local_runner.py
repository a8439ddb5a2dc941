"""An executor in this process as a loop's runner."""

import asyncio
from collections import deque

from quire.engine.api.adapter import Adapter
from quire.engine.executor import Executor
from quire.engine.loop import StepRunner
from quire.engine.preparation import Preparation
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_thread import Launched, StepThread


class LocalRunner(StepRunner):
    """Runs plans one after the other on one thread, while the loop plans the next."""

    def __init__(self, executor: Executor) -> None:
        self._thread = StepThread(executor)
        self._launched: deque[Launched] = deque()

    async def send(self, plan: StepPlan) -> None:
        self._launched.append(self._thread.launch(plan))

    async def receive(self) -> StepResult:
        return await self._thread.result(self._launched.popleft())

    async def prepare(self, preparation: Preparation) -> asyncio.Future[None]:
        return self._thread.prepare(preparation)

    async def examine(self, name: str, path: str) -> Adapter:
        return await self._thread.examine(name, path)

    def close(self) -> None:
        """Waits for the plan that runs, and lets go of the executor."""
        self._launched.clear()
        self._thread.close()
