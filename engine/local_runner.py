"""An executor in this process as a loop's runner."""

import asyncio
from collections import deque

from quire.engine.api.structured_output import StructuredOutput
from quire.engine.executor import Executor
from quire.engine.loop import StepRunner
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

    async def prepare(self, structure: StructuredOutput) -> asyncio.Future[None]:
        return self._thread.prepare(structure)

    def close(self) -> None:
        """Waits for the plan that runs, and lets go of the executor."""
        self._launched.clear()
        self._thread.close()
