"""What one scheduling step costs: the real scheduler and the Redis ledger, with an executor that does nothing.

    python benchmarks/scheduler_cost.py [--redis URL] [--sequences 64,256,1024] [--steps 600]

All sequences decode all the time, so in a step about one sixteenth of them begin a new block and publish one.
CPU is that of this process, which includes the Redis client; wall time of the commit includes Redis.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from quire.services.common.wire import plan_to_proto

BLOCK_SIZE = 16
PROMPT = 64


@dataclass
class Samples:
    """CPU microseconds per step of each part, and wall microseconds of the commit."""

    schedule: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)
    wire: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    commit_wall: list[float] = field(default_factory=list)
    plan_bytes: list[float] = field(default_factory=list)

    def row(self, num_sequences: int) -> str:
        cpu = [sum(parts) for parts in zip(self.schedule, self.commit, self.wire, self.update, strict=True)]
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


async def measure(ledger: KVLedger, num_sequences: int, num_steps: int) -> Samples:
    num_blocks = num_sequences * ((PROMPT + BLOCK_SIZE + num_steps + 200) // BLOCK_SIZE + 2)
    info = ExecutorInfo(
        f"cost-{num_sequences}", "model", 32_000, 10**6, num_blocks, BLOCK_SIZE, num_sequences, (), DeviceKind.GPU
    )
    pool = PoolIdentity(f"cost-{num_sequences}", info.incarnation, "model", num_blocks, BLOCK_SIZE)
    epoch = await ledger.next_epoch()
    scheduler = make_scheduler(num_sequences, num_steps, info, await ledger.open(pool, epoch))
    executor = Pretender(num_sequences)
    samples, pending, warm_up = Samples(), [], 100
    for index in range(num_steps + warm_up):
        if index == warm_up:
            samples = Samples()
        with cpu(samples.schedule):
            plan = scheduler.schedule()
        assert plan is not None
        began = time.perf_counter_ns()
        with cpu(samples.commit):
            transaction = scheduler.take_transaction()
            if transaction:
                await ledger.commit(pool, epoch, transaction)
        samples.commit_wall.append((time.perf_counter_ns() - began) / 1000)
        with cpu(samples.wire):
            samples.plan_bytes.append(float(len(plan_to_proto(plan).SerializeToString())))
        pending.append(executor.execute(plan))
        if len(pending) == 2:
            with cpu(samples.update):
                scheduler.update(pending.pop(0))
        else:
            samples.update.append(0.0)
    await ledger.remove(pool, epoch)
    return samples


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
    args = parser.parse_args()
    counts = [int(each) for each in args.sequences.split(",")]
    if args.redis:
        asyncio.run(run(args.redis, counts, args.steps))
    else:
        with private_redis() as url:
            asyncio.run(run(url, counts, args.steps))


if __name__ == "__main__":
    main()
