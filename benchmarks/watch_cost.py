"""What watchers cost a scheduler: its own work for the live page and `quire top`, with an executor that does nothing.

    python benchmarks/watch_cost.py [--blocks 400000] [--sequences 256] [--steps 400] [--steps-per-snapshot 15]

Half of the pool is cached and all sequences decode. CPU is that of this process: of the first snapshot, which says
every block; of each later one; and of each step's own part, which is nothing while nobody watches.
"""

import argparse
import statistics
import time

import numpy as np

from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.loop import StepLoop
from quire.engine.request import Request
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.step import DeviceKind, ExecutorInfo, StepPlan, StepResult
from quire.services.scheduler.attached_executor import AttachedExecutor
from quire.services.scheduler.dispatcher import Dispatcher
from quire.services.scheduler.executor_link import ExecutorLink
from quire.services.scheduler.watch.journal import Journal
from quire.services.scheduler.watch.watch import Watch
from quire.services.scheduler.watch.watched_executor import WatchedExecutor

BLOCK_SIZE = 16
PROMPT = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 400_000), ("sequences", 256), ("steps", 400), ("steps-per-snapshot", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    journal = Journal()
    dispatcher = Dispatcher(1, [journal])
    executor = attached(options.blocks, options.sequences, dispatcher)
    dispatcher.attach(executor)
    stream = dispatcher.connect()
    for handle in range(options.sequences):
        prompt = np.arange(handle, handle + PROMPT, dtype=np.int32)
        params = SamplingParams(seed=0, max_tokens=100_000, ignore_eos=True)
        dispatcher.submit(stream, Request(str(handle), stream.client, handle, prompt, np.empty(0, np.int32), params))
    for _ in range(20):
        step(executor)
    watch = Watch(dispatcher, journal)
    print(f"{options.blocks} blocks, {options.sequences} sequences; CPU milliseconds")
    began = time.process_time()
    watch._advance()
    first = 1000 * (time.process_time() - began)
    print(f"first snapshot        {first:8.2f}   {len(watch._latest.executors[0].block_runs):,} bytes of runs")
    (watched,) = watch._watched.values()
    own, snapshots = [], []
    for number in range(options.steps):
        own.append(step(executor, watched))
        if number % options.steps_per_snapshot == 0:
            began = time.process_time()
            watch._advance()
            snapshots.append(1000 * (time.process_time() - began))
    print(f"later snapshot        {statistics.mean(snapshots):8.2f}   two a second")
    print(f"step's own part       {statistics.mean(own):8.4f}")


def attached(num_blocks: int, num_slots: int, dispatcher: Dispatcher) -> AttachedExecutor:
    """An executor with half of its pool cached."""
    info = ExecutorInfo("1", "model", 2**20, 2**20, num_blocks, BLOCK_SIZE, num_slots, (), DeviceKind.GPU)
    state = PoolState(num_blocks)
    # Every other one, so that runs are as short as can be.
    for tick, block in enumerate(range(0, num_blocks, 2)):
        name = block.to_bytes(16, "little")
        state.hashes[block], state.index[name], state.cached[block] = name, block, tick
    scheduler = Scheduler(SchedulerConfig(), info, state)
    identity = PoolIdentity("a:1", info.incarnation, info.fingerprint, num_blocks, BLOCK_SIZE)
    loop = StepLoop(scheduler, MemoryLedger(), identity, 1, ExecutorLink.__new__(ExecutorLink), dispatcher.deliver)
    return AttachedExecutor("a:1", info, scheduler, loop)


def step(executor: AttachedExecutor, watched: WatchedExecutor | None = None) -> float:
    """One step, as the loop does it; CPU milliseconds that the watcher took."""
    scheduler = executor.scheduler
    plan = scheduler.schedule()
    assert plan is not None
    transaction = scheduler.take_transaction()
    result = computed(plan)
    output = scheduler.update(result)
    began = time.process_time()
    if watched is not None:
        watched.committed(transaction)
        watched.planned(plan, 0, 0, 0, 0)
        watched.updated(result, len(output.token_ids), 0, 0, time.monotonic_ns())
    return 1000 * (time.process_time() - began)


def computed(plan: StepPlan) -> StepResult:
    """A token for every row that samples; prompts are computed in one chunk."""
    slots = np.concatenate([plan.context_slots, plan.generation_slots])
    return StepResult(plan.step, slots, np.full(len(slots), 5, np.int32), 0)


if __name__ == "__main__":
    main()
