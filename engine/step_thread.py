"""An executor on a thread of its own, for an event loop that must not wait for a step."""

import asyncio
from collections.abc import Iterable
from time import monotonic, monotonic_ns
from typing import NamedTuple, TypeAlias

from quire.engine.activity import Activity
from quire.engine.api.adapter import Adapter
from quire.engine.executor import Executor, PendingStep
from quire.engine.preparation import Preparation
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver
from quire.engine.step_times import FIRST_SECONDS, StepTimes
from quire.engine.worker_thread import WorkerThread


class Launch(NamedTuple):
    """A plan that was launched with so many tokens, and when, of `time.monotonic_ns`."""

    plan: StepPlan
    num_tokens: int
    pending: PendingStep
    began: int
    ended: int


Launched: TypeAlias = asyncio.Future[Launch]


class StepThread:
    """Launches plans in their order on one thread, waits for a device's results on another, and compiles on a third.

    Args:
        observers: are told of every result, on the event loop.

    Attributes:
        activities: of the threads that a step needs.
    """

    def __init__(self, executor: Executor, observers: Iterable[StepObserver] = ()) -> None:
        self._executor = executor
        self._observers = tuple(observers)
        self._launching = WorkerThread("quire-executor")
        self._waiting = WorkerThread("quire-result")
        self._preparing = WorkerThread("quire-prepare")
        self._times = StepTimes()
        self._computing, self._awaiting = Activity("a step"), Activity("the device")
        self.activities = (self._computing, self._awaiting)

    def launch(self, plan: StepPlan) -> Launched:
        """Starts a plan behind those launched before; the next one waits on the thread while it runs."""
        return asyncio.get_running_loop().run_in_executor(self._launching, self._launch, plan)

    async def result(self, launched: Launched) -> StepResult:
        """Waits for a launch and its step; raises what the executor raised."""
        # Not cancelled with the caller: a launch in the queue would be left out, and the one behind it not.
        launch = await asyncio.shield(launched)
        plan, num_tokens, pending, began, ended = launch
        if pending.is_over:
            result = pending.result()
        else:
            result = await asyncio.get_running_loop().run_in_executor(self._waiting, self._wait, launch)
        self._times.add(num_tokens, max(result.compute_us / 1e6, (ended - began) / 1e9))
        for observer in self._observers:
            observer.computed(plan, result, began, ended)
        return result

    def prepare(self, preparation: Preparation) -> asyncio.Future[None]:
        """Makes ready what sequences will ask for, beside the steps; raises what the executor raises."""
        return asyncio.get_running_loop().run_in_executor(self._preparing, self._executor.prepare, preparation)

    def examine(self, name: str, path: str) -> asyncio.Future[Adapter]:
        """The adapter of a folder, beside the steps; raises what the executor raises."""
        return asyncio.get_running_loop().run_in_executor(self._preparing, self._executor.examine, name, path)

    async def reset(self) -> None:
        """Empties every slot, behind what was launched."""
        await asyncio.get_running_loop().run_in_executor(self._launching, self._reset)

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
        num_tokens = int(plan.context_tokens.sum()) + len(plan.generation_slots)
        began = monotonic_ns()
        with self._computing.call(self._times.expected(num_tokens)):
            pending = self._executor.launch(plan)
        return Launch(plan, num_tokens, pending, began, monotonic_ns())

    def _wait(self, launch: Launch) -> StepResult:
        """Those launched before are over, as their results were waited for."""
        with self._awaiting.call(self._times.expected(launch.num_tokens)):
            return launch.pending.result()

    def _reset(self) -> None:
        """Behind up to two steps on a device."""
        with self._computing.call(FIRST_SECONDS):
            self._executor.reset()
