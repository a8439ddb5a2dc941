"""What an executor on a GPU tries at its start leaves no trace; here on the CPU."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from quire.engine.config import ExecutorConfig
from quire.engine.executor import Executor
from quire.engine.model.features.penalties import counts_bytes
from quire.engine.model.features.processors import processors_bytes
from quire.engine.model.features.token_history import TokenHistory
from quire.engine.step import StepPlan, StepResult
from quire.engine.warmup import warmup_plans
from support.operations import Operations
from support.starts import sequence_start

NUM_SLOTS, VOCAB_SIZE = 4, 2048


@pytest.fixture
def new_executor() -> Callable[[], Executor]:
    config = ExecutorConfig(dtype="float32", device="cpu", num_threads=1, num_blocks=2, max_batch_size=NUM_SLOTS)
    return lambda: Executor(config)


def ints(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, np.int32)


def greedy_step(executor: Executor, slot: int) -> StepResult:
    start = sequence_start(slot, [5, 6, 7], [0])
    return executor.execute(StepPlan(1, ints().reshape(0, 2), (start,), ints(), ints(), ints(slot), ints(3), ints()))


def test_every_wish_is_tried(new_executor: Callable[[], Executor]) -> None:
    executor = new_executor()
    drawn, every = (executor.execute(plan) for plan in warmup_plans(NUM_SLOTS - 1))
    assert drawn.logprobs is None
    assert every.logprobs is not None
    counts = executor._slots._processors[0]._counts
    assert counts.nbytes == counts_bytes(NUM_SLOTS, VOCAB_SIZE), "as many as there will ever be"


def test_memory_is_planned_for_all_that_slots_remember() -> None:
    users = {name: lambda logits, rows: None for name in ("one", "two")}
    config = ExecutorConfig(dtype="float32", device="cpu", num_threads=1, num_blocks=2, max_batch_size=NUM_SLOTS)
    executor = Executor(config, users)
    for plan in warmup_plans(NUM_SLOTS - 1):
        executor.execute(plan)
        named = tuple((name, "null") for name in users)
        (start,) = plan.starts
        params = replace(start.sampling, logits_processors=named)
        executor.execute(replace(plan, starts=(replace(start, sampling=params),)))
    remembered = [getattr(each, "_history", None) for each in executor._slots._processors]
    histories = [each._tokens for each in remembered if isinstance(each, TokenHistory)]
    assert len(histories) == 5
    counts = executor._slots._processors[0]._counts
    planned = processors_bytes(NUM_SLOTS, executor.info.max_model_len, VOCAB_SIZE, num_users=2)
    assert counts.nbytes + sum(each.nbytes for each in histories) == planned


def test_the_executor_is_as_it_was(new_executor: Callable[[], Executor]) -> None:
    fresh, used = new_executor(), new_executor()
    for plan in warmup_plans(NUM_SLOTS - 1):
        used.execute(plan)
    used.reset()
    names = []
    for executor in (fresh, used):
        with Operations() as found:
            result = greedy_step(executor, NUM_SLOTS - 1)
        names.append(found.names)
        assert result.logprobs is None
        assert result.token_ids.tolist() == greedy_step(fresh, 0).token_ids.tolist()
    assert names[0] == names[1]
