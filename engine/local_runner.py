"""An executor in this process, on a thread of its own."""

import asyncio
from collections import deque

from quire.engine.executor import Executor, PendingStep
from quire.engine.loop import StepRunner
from quire.engine.step import StepPlan, StepResult
from quire.engine.worker_thread import WorkerThread


class LocalRunner(StepRunner):
    """Runs plans one after the other on one thread, while the loop plans the next."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._thread = WorkerThread("quire-executor")
        # Waits for a device; launching goes on meanwhile.
        self._waiting = WorkerThread("quire-result")
        self._pending: deque[asyncio.Future[PendingStep]] = deque()

    async def send(self, plan: StepPlan) -> None:
        loop = asyncio.get_running_loop()
        self._pending.append(loop.run_in_executor(self._thread, self._executor.launch, plan))

    async def receive(self) -> StepResult:
        pending = await self._pending.popleft()
        if pending.is_over:
            return pending.result()
        return await asyncio.get_running_loop().run_in_executor(self._waiting, pending.result)

    def close(self) -> None:
        """Waits for the plan that runs, and lets go of the executor, whoever still refers to this."""
        self._thread.shutdown(cancel_futures=True)
        self._waiting.shutdown(cancel_futures=True)
        self._pending.clear()
        del self._executor
