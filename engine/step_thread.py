"""An executor on a thread of its own, for an event loop that must not wait for a step."""

import asyncio
from collections.abc import Iterable
from time import monotonic, monotonic_ns
from typing import NamedTuple, TypeAlias

from quire.engine.api.structured_output import StructuredOutput
from quire.engine.executor import Executor, PendingStep
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver
from quire.engine.worker_thread import WorkerThread


class Launch(NamedTuple):
    """A plan that was launched, and when, of `time.monotonic_ns`."""

    plan: StepPlan
    pending: PendingStep
    began: int
    ended: int


Launched: TypeAlias = asyncio.Future[Launch]


class StepThread:
    """Launches plans in their order on one thread, waits for a device's results on another, and compiles on a third.

    Args:
        observers: are told of every result, on the event loop.
    """

    def __init__(self, executor: Executor, observers: Iterable[StepObserver] = ()) -> None:
        self._executor = executor
        self._observers = tuple(observers)
        self._launching = WorkerThread("quire-executor")
        self._waiting = WorkerThread("quire-result")
        self._preparing = WorkerThread("quire-prepare")

    def launch(self, plan: StepPlan) -> Launched:
        """Starts a plan behind those launched before; the next one waits on the thread while it runs."""
        return asyncio.get_running_loop().run_in_executor(self._launching, self._launch, plan)

    async def result(self, launched: Launched) -> StepResult:
        """Waits for a launch and its step; raises what the executor raised."""
        # Not cancelled with the caller: a launch in the queue would be left out, and the one behind it not.
        plan, pending, began, ended = await asyncio.shield(launched)
        if pending.is_over:
            result = pending.result()
        else:
            result = await asyncio.get_running_loop().run_in_executor(self._waiting, pending.result)
        for observer in self._observers:
            observer.computed(plan, result, began, ended)
        return result

    def prepare(self, structure: StructuredOutput) -> asyncio.Future[None]:
        """Compiles what sequences will ask for, beside the steps; raises what the executor raises."""
        return asyncio.get_running_loop().run_in_executor(self._preparing, self._executor.prepare, structure)

    async def reset(self) -> None:
        """Empties every slot, behind what was launched."""
        await asyncio.get_running_loop().run_in_executor(self._launching, self._executor.reset)

    def close(self) -> None:
        """Waits for the plan that runs, and lets go of the executor, whoever still refers to this."""
        for thread in (self._launching, self._waiting, self._preparing):
            thread.shutdown(cancel_futures=True)
        del self._executor

    def end(self, timeout: float) -> bool:
        """Takes no more plans; whether the one that runs was over within `timeout` seconds.

        While a step runs the process must not end in order: what the step computes with would be freed under it.
        """
        for thread in (self._launching, self._waiting, self._preparing):
            thread.shutdown(wait=False, cancel_futures=True)
        deadline = monotonic() + timeout
        return all(thread.join(max(0.0, deadline - monotonic())) for thread in (self._launching, self._waiting))

    def _launch(self, plan: StepPlan) -> Launch:
        began = monotonic_ns()
        pending = self._executor.launch(plan)
        return Launch(plan, pending, began, monotonic_ns())
