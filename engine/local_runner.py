"""An executor in this process, on a thread of its own."""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from quire.engine.executor import Executor
from quire.engine.loop import StepRunner
from quire.engine.step import StepPlan, StepResult


class LocalRunner(StepRunner):
    """Runs plans one after the other on one thread, while the loop plans the next."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="executor")
        self._pending: deque[asyncio.Future[StepResult]] = deque()

    async def send(self, plan: StepPlan) -> None:
        loop = asyncio.get_running_loop()
        self._pending.append(loop.run_in_executor(self._thread, self._executor.execute, plan))

    async def receive(self) -> StepResult:
        return await self._pending.popleft()

    def close(self) -> None:
        """Waits for the plan that runs."""
        self._thread.shutdown(cancel_futures=True)
