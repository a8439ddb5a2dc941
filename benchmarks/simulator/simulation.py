"""Time passes only here: arrivals, steps and results of one run, in order."""

from collections import deque
from collections.abc import Sequence as List
from dataclasses import dataclass, field

import numpy as np

from quire.engine.config import SchedulerConfig
from quire.engine.loop import MAX_STEPS_IN_FLIGHT
from quire.engine.request import Request, SamplingParams
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.scheduling.sequence import Sequence
from quire.engine.step import ExecutorInfo, StepResult
from simulator.executor import EOS, ImaginedExecutor, StepTime

BLOCK_SIZE = 16


@dataclass(frozen=True)
class Job:
    """One request of a trace: when it comes (µs), how long it is, and how long it may and will become."""

    arrival: float
    prompt_len: int
    output_len: int
    max_tokens: int


@dataclass
class Outcome:
    """What a run showed; times in microseconds.

    Attributes:
        ttft: one per request.
        itl: one per token but the first of each request.
        num_recomputed: context tokens computed beyond one pass over every prompt.
        usage: share of the pool held, one per step.
    """

    duration: float = 0.0
    num_requests: int = 0
    num_tokens: int = 0
    num_pauses: int = 0
    num_recomputed: int = 0
    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    usage: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.duration * 1e6


def simulate(jobs: List[Job], config: SchedulerConfig, num_blocks: int, step_time: StepTime) -> Outcome:
    """Serves every job and says how it went."""
    return _Run(jobs, config, num_blocks, step_time).finish()


class _Run:
    def __init__(self, jobs: List[Job], config: SchedulerConfig, num_blocks: int, step_time: StepTime) -> None:
        self.now = 0.0
        self.jobs = deque(sorted(enumerate(jobs, 1), key=lambda item: item[1].arrival))
        info = ExecutorInfo("x", "m", 32_000, 10**7, num_blocks, BLOCK_SIZE, config.max_batch_size, (EOS,))
        self.scheduler = Scheduler(config, info, PoolState(num_blocks), clock=lambda: self.now / 1e6)
        self.executor = ImaginedExecutor(step_time, {handle: job.output_len for handle, job in self.jobs})
        self.last: dict[int, float] = {}
        self.arrivals = {handle: job.arrival for handle, job in self.jobs}
        self.outcome = Outcome(num_requests=len(jobs))
        self.prompt_tokens = sum(job.prompt_len for job in jobs)
        self.in_flight: deque[tuple[float, StepResult]] = deque()
        self.num_starts = 0

    def finish(self) -> Outcome:
        while self.jobs or self.scheduler.num_waiting or self.scheduler.num_running or self.in_flight:
            self._arrive()
            plan = self.scheduler.schedule() if len(self.in_flight) < MAX_STEPS_IN_FLIGHT else None
            self.scheduler.take_transaction()
            if plan is not None:
                self.num_starts += len(plan.starts)
                result, took = self.executor.run(plan, self.scheduler.running)
                begin = max(self.now, self.in_flight[-1][0] if self.in_flight else 0.0)
                self.in_flight.append((begin + took, result))
                pool = self.scheduler.pool
                self.outcome.usage.append(len(pool.state.refs) / pool.num_blocks)
            if len(self.in_flight) == MAX_STEPS_IN_FLIGHT or (self.in_flight and plan is None):
                self._complete()
            elif not self.in_flight and self.jobs:
                self.now = max(self.now, self.jobs[0][1].arrival)
        statistics = self.scheduler.statistics
        reused = statistics.num_reused_tokens + statistics.num_copied_tokens
        self.outcome.duration = self.now
        self.outcome.num_pauses = self.num_starts - self.outcome.num_requests
        self.outcome.num_recomputed = self.executor.num_context_tokens + reused - self.prompt_tokens
        return self.outcome

    def _arrive(self) -> None:
        while self.jobs and self.jobs[0][1].arrival <= self.now:
            handle, job = self.jobs.popleft()
            # No two prompts are alike.
            prompt = np.random.default_rng(handle).integers(1, 30_000, job.prompt_len).astype(np.int32)
            params = SamplingParams(seed=0, max_tokens=job.max_tokens)
            request = Request(str(handle), 0, handle, prompt, prompt[:0], params)
            self.scheduler.add(Sequence(request, (EOS,)))

    def _complete(self) -> None:
        self.now, result = self.in_flight.popleft()
        for sequence in self.scheduler.update(result).sequences:
            handle = sequence.request.handle
            if handle in self.last:
                self.outcome.itl.append(self.now - self.last[handle])
            else:
                self.outcome.ttft.append(self.now - self.arrivals[handle])
            self.last[handle] = self.now
            self.outcome.num_tokens += 1
