"""Time passes only here: arrivals, steps and results of one run, in their order, without sleeping."""

from collections import deque
from collections.abc import Sequence as List
from math import inf

from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.loop import MAX_STEPS_IN_FLIGHT
from quire.engine.request import Request
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.pool_state import PoolState
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.scheduling.step_output import StepOutput
from quire.engine.sequence import Sequence
from quire.engine.step import DeviceKind, ExecutorInfo, StepPlan, StepResult
from simulator.executor import EOS, ImaginedExecutor, StepTime
from simulator.job import Job
from simulator.outcome import Outcome
from simulator.trace import VOCAB_SIZE

BLOCK_SIZE = 16


class Simulation:
    """The scheduler's loop in virtual time.

    Args:
        jobs: what comes.
        config: of the scheduler; its bounds on what waits must admit every job.
        num_blocks: of the pool.
        step_time: of the executor.
        max_batch_size: of the executor.
        check: apply every transaction to books of their own and compare, as a ledger would.
        until_us: stop then, with whatever is left.
    """

    def __init__(
        self,
        jobs: List[Job],
        config: SchedulerConfig,
        num_blocks: int,
        step_time: StepTime,
        max_batch_size: int,
        check: bool = False,
        until_us: float = inf,
    ) -> None:
        info = ExecutorInfo(
            "1", "model", VOCAB_SIZE, 2**31 - 1, num_blocks, BLOCK_SIZE, max_batch_size, (EOS,), DeviceKind.GPU
        )
        self._now = 0.0
        self._until_us = until_us
        self._jobs = jobs
        self._coming = deque(sorted(range(len(jobs)), key=lambda number: jobs[number].arrival_us))
        self._scheduler = Scheduler(config, info, PoolState(num_blocks), clock=lambda: self._now / 1e6)
        self._executor = ImaginedExecutor(step_time, jobs, max_batch_size)
        self._in_flight: deque[tuple[float, StepResult]] = deque()
        self._books = PoolState(num_blocks) if check else None
        self._last_us: dict[int, float] = {}  # job → time of its newest token
        self._outcome = Outcome(num_blocks)

    def run(self) -> Outcome:
        """Serves every job, or until its time is over; deterministic.

        Raises:
            LedgerConflict, AssertionError: with `check`, the books do not agree.
        """
        while self._now < self._until_us:
            self._arrive()
            plan = self._scheduler.schedule()
            self._commit()
            if plan is not None:
                self._send(plan)
            if len(self._in_flight) == MAX_STEPS_IN_FLIGHT or (self._in_flight and plan is None):
                self._receive()
            elif not self._in_flight:
                if not self._coming:
                    break
                self._now = self._jobs[self._coming[0]].arrival_us
        self._outcome.num_recomputed = self._executor.num_recomputed
        return self._outcome

    def _arrive(self) -> None:
        while self._coming and self._jobs[self._coming[0]].arrival_us <= self._now:
            number = self._coming.popleft()
            job = self._jobs[number]
            params = SamplingParams(seed=number, max_tokens=job.max_tokens)
            request = Request(str(number), 0, number, job.prompt, job.prompt[:0], params, job.options)
            self._scheduler.add(Sequence(request, (EOS,)))

    def _commit(self) -> None:
        transaction = self._scheduler.take_transaction()
        if self._books is not None and transaction:
            self._books.apply(transaction)
            if self._books.refs != self._scheduler.pool.state.refs or (faults := audit(self._books)):
                raise AssertionError(f"the books do not agree at {self._now:.0f} us: {faults}")

    def _send(self, plan: StepPlan) -> None:
        result, took = self._executor.run(plan)
        begin = self._in_flight[-1][0] if self._in_flight else self._now
        self._in_flight.append((begin + took, result))
        num_held = len(self._scheduler.pool.state.refs)
        self._outcome.num_starts += len(plan.starts)
        self._outcome.held_us += num_held * took
        self._outcome.peak_blocks = max(self._outcome.peak_blocks, num_held)

    def _receive(self) -> None:
        self._now, result = self._in_flight.popleft()
        self._record(self._scheduler.update(result))

    def _record(self, output: StepOutput) -> None:
        outcome = self._outcome
        for sequence in output.started:
            outcome.context_of[sequence.request.options.tenant] += sequence.num_prompt
        for sequence in output.sequences:
            outcome.generated_of[sequence.request.options.tenant] += 1
            number = sequence.request.handle
            last = self._last_us.get(number)
            if last is None:
                outcome.ttft_us.append(self._now - self._jobs[number].arrival_us)
            else:
                outcome.itl_us.append(self._now - last)
            self._last_us[number] = self._now
        if output.sequences:
            outcome.num_tokens += len(output.sequences)
            outcome.duration_us = self._now
        outcome.num_requests += len(output.finished)


def num_to_completion(job: Job) -> int:
    """Blocks that the job may take at most."""
    return -(-(len(job.prompt) + job.max_tokens - 1) // BLOCK_SIZE)


def peak_demand(jobs: List[Job], config: SchedulerConfig, step_time: StepTime, max_batch_size: int) -> int:
    """The most blocks that the jobs hold at once in an unbounded pool: the base of over-subscription."""
    most = sorted(map(num_to_completion, jobs))[-max_batch_size:]
    unbounded = config.model_copy(update={"capacity_policy": "GUARANTEED_NO_EVICT"})
    return Simulation(jobs, unbounded, sum(most), step_time, max_batch_size).run().peak_blocks
