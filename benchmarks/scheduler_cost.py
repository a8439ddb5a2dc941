"""What one scheduling step costs: the real scheduler and the Redis ledger, with an executor that does nothing.

    python benchmarks/scheduler_cost.py [--redis URL] [--sequences 64,256,1024] [--steps 600] [--metrics 4]

All sequences decode all the time, so in a step about one sixteenth of them begin a new block and publish one.
CPU is that of this process, which includes the Redis client; wall time of the commit includes Redis. With --metrics N
each step's metrics are counted, too, in every other run of 2 N. They are timed by themselves, as differences of whole
steps are less than what a machine's noise makes of them; both are printed.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
from private_redis import private_redis

from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.request import Request
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.sequence import Sequence
from quire.engine.step import DeviceKind, ExecutorInfo, StepPlan, StepResult
from quire.services.common.metrics.meter import Meter
from quire.services.common.wire import plan_to_proto
from quire.services.scheduler.metrics import METRICS
from quire.services.scheduler.step_meter import StepMeter

BLOCK_SIZE = 16
PROMPT = 64


@dataclass
class Samples:
    """CPU microseconds per step of each part, and wall microseconds of the commit."""

    schedule: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)
    wire: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    metrics: list[float] = field(default_factory=list)
    commit_wall: list[float] = field(default_factory=list)
    plan_bytes: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> list[float]:
        """Of whole steps."""
        parts = zip(self.schedule, self.commit, self.wire, self.update, self.metrics, strict=True)
        return [sum(each) for each in parts]

    def row(self, num_sequences: int) -> str:
        cpu = self.cpu
        parts = (self.schedule, self.commit, self.wire, self.update, cpu, self.commit_wall)
        cells = " | ".join(f"{statistics.median(part):7.0f}" for part in parts)
        p99 = statistics.quantiles(cpu, n=100)[98]
        return f"| {num_sequences:>5} | {cells} | {p99:7.0f} | {statistics.median(self.plan_bytes):6.0f} |"


@contextmanager
def cpu(samples: list[float]) -> Iterator[None]:
    began = time.process_time_ns()
    yield
    samples.append((time.process_time_ns() - began) / 1000)


def make_scheduler(num_sequences: int, num_steps: int, info: ExecutorInfo, ledger_state: object) -> Scheduler:
    config = SchedulerConfig(max_num_tokens=max(4096, num_sequences))
    scheduler = Scheduler(config, info, ledger_state)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    empty = np.empty(0, np.int32)
    for handle in range(num_sequences):
        # Lengths differ, so that sequences fill their blocks in different steps.
        prompt = rng.integers(3, 30_000, PROMPT + handle % BLOCK_SIZE).astype(np.int32)
        params = SamplingParams(seed=1, max_tokens=num_steps + 200, ignore_eos=True)
        scheduler.add(Sequence(Request(str(handle), 0, handle, prompt, empty, params), ()))
    return scheduler


class Pretender:
    """Answers with random tokens for every row that samples: those whose context ends, and those that generate."""

    def __init__(self, num_slots: int) -> None:
        self._num_left = np.zeros(num_slots, np.int64)
        self._rng = np.random.default_rng(1)

    def execute(self, plan: StepPlan) -> StepResult:
        for start in plan.starts:
            self._num_left[start.slot] = len(start.token_ids) - start.num_computed
        self._num_left[plan.context_slots] -= plan.context_tokens
        complete = self._num_left[plan.context_slots] == 0
        slots = np.concatenate([plan.context_slots[complete], plan.generation_slots])
        return StepResult(plan.step, slots, self._rng.integers(3, 30_000, len(slots)).astype(np.int32), 1)


async def measure(ledger: KVLedger, num_sequences: int, num_steps: int, meter: StepMeter | None = None) -> Samples:
    num_blocks = num_sequences * ((PROMPT + BLOCK_SIZE + num_steps + 200) // BLOCK_SIZE + 2)
    info = ExecutorInfo(
        f"cost-{num_sequences}", "model", 32_000, 10**6, num_blocks, BLOCK_SIZE, num_sequences, (), DeviceKind.GPU
    )
    pool = PoolIdentity(f"cost-{num_sequences}", info.incarnation, "model", num_blocks, BLOCK_SIZE)
    epoch = 1
    scheduler = make_scheduler(num_sequences, num_steps, info, await ledger.open(pool, epoch))
    executor = Pretender(num_sequences)
    samples, pending, warm_up = Samples(), [], 100
    for index in range(num_steps + warm_up):
        if index == warm_up:
            samples = Samples()
        began = time.perf_counter_ns()
        with cpu(samples.schedule):
            plan = scheduler.schedule()
        assert plan is not None
        scheduled = time.perf_counter_ns()
        with cpu(samples.commit):
            transaction = scheduler.take_transaction()
            if transaction:
                await ledger.commit(pool, epoch, transaction)
        committed = time.perf_counter_ns()
        samples.commit_wall.append((committed - scheduled) / 1000)
        with cpu(samples.wire):
            samples.plan_bytes.append(float(len(plan_to_proto(plan).SerializeToString())))
        sent = time.perf_counter_ns()
        pending.append(executor.execute(plan))
        if len(pending) < 2:
            samples.update.append(0.0)
            samples.metrics.append(0.0)
            continue
        result = pending.pop(0)
        with cpu(samples.update):
            output = scheduler.update(result)
        with cpu(samples.metrics):
            if meter is not None:
                meter.planned(plan, began, scheduled, committed, sent)
                meter.updated(result, len(output.token_ids), sent, sent, time.perf_counter_ns())
    await ledger.remove(pool, epoch)
    return samples


async def compare(url: str, counts: list[int], num_steps: int, num_runs: int) -> None:
    """Metrics off and on, in turn."""
    ledger = RedisLedger.connect(url)
    print(f"CPU µs per step, medians of {num_runs} runs each, off and on in turn")
    print("| seqs | off | on | metrics alone | of a step |")
    print("|---|---|---|---|---|")
    for count in counts:
        off, on, alone = [], [], []
        for _ in range(num_runs):
            without = await measure(ledger, count, num_steps)
            samples = await measure(ledger, count, num_steps, StepMeter(Meter(METRICS, {}), "executor"))
            off.append(statistics.median(without.cpu))
            on.append(statistics.median(samples.cpu))
            # Less what it takes to time nothing. Means: of every thousand rows one is dear.
            alone.append(statistics.fmean(samples.metrics) - statistics.fmean(without.metrics))
        figures = [statistics.median(each) for each in (off, on, alone)]
        share = figures[2] / figures[0]
        print(f"| {count:>5} | {figures[0]:7.1f} | {figures[1]:7.1f} | {figures[2]:5.2f} | {share:.2%} |", flush=True)
    await ledger.close()


async def run(url: str, counts: list[int], num_steps: int) -> None:
    ledger = RedisLedger.connect(url)
    print("CPU µs per step, medians; commit wall µs, median; p99 of the CPU sum; plan bytes")
    print("| seqs | schedule | commit | wire | update | CPU sum | commit wall | CPU p99 | bytes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for count in counts:
        print((await measure(ledger, count, num_steps)).row(count), flush=True)
    await ledger.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", help="URL; default: a private server")
    parser.add_argument("--sequences", default="64,256,1024")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--metrics", type=int, metavar="N", help="runs with and without metrics, N each")
    args = parser.parse_args()
    counts = [int(each) for each in args.sequences.split(",")]
    with nullcontext(args.redis) if args.redis else private_redis() as url:
        if args.metrics:
            asyncio.run(compare(url, counts, args.steps, args.metrics))
        else:
            asyncio.run(run(url, counts, args.steps))


if __name__ == "__main__":
    main()
