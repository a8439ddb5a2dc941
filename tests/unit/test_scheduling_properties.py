"""Scheduler, KV cache manager and both ledgers through arbitrary interleavings of everything that can happen.

After every action the ledger is checked. The simulated executor checks every position that it reads. Every request must
end exactly once, with the tokens of an undisturbed run.
"""

from collections.abc import Iterable, Iterator

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from quire.engine.api.kv_cache_group import blocks_for, groups_of
from quire.engine.api.options import CacheParams, Retention
from quire.engine.arrays import Int32Array
from quire.engine.config import SchedulerConfig
from quire.engine.resources.ledger.base import KVLedger
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.scheduling.generation import GenerationBatch
from support.redis_server import running_redis
from support.rig import Rig
from support.simulated_executor import VOCAB_SIZE, executor_info

NUM_BLOCKS, BLOCK_SIZE, NUM_SLOTS = 12, 4, 4
PROMPTS = st.lists(st.integers(1, 2), min_size=1, max_size=24) | st.lists(
    st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=30
)
CACHES = st.builds(
    CacheParams,
    salt=st.sampled_from(["", "a"]),
    opt_out=st.booleans(),
    retention=st.lists(
        st.builds(
            Retention,
            start=st.integers(0, 12),
            end=st.none() | st.integers(1, 30),
            priority=st.integers(0, 100),
            duration_ms=st.none() | st.integers(0, 3),
        ),
        max_size=2,
    ).map(tuple),
)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


def machine(
    redis_url: str | None, config: SchedulerConfig, windows: tuple[int, ...] = ()
) -> type[RuleBasedStateMachine]:
    """A state machine over one configuration, with Redis beside the memory ledger where a URL is given."""
    num_blocks = blocks_for(groups_of(windows), NUM_BLOCKS * BLOCK_SIZE, BLOCK_SIZE)

    class Interleavings(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            ledgers: list[KVLedger] = [MemoryLedger()]
            if redis_url is not None:
                with redis.Redis.from_url(redis_url) as client:
                    client.flushall()
                ledgers.append(RedisLedger.connect(redis_url))
            self.rig = Rig(config, executor_info(num_blocks, BLOCK_SIZE, NUM_SLOTS, windows=windows), *ledgers)

        @rule(prompt=PROMPTS, max_tokens=st.integers(1, 16))
        def arrive(self, prompt: list[int], max_tokens: int) -> None:
            self.rig.arrive(prompt, max_tokens)

        @rule(
            prompt=PROMPTS,
            max_tokens=st.integers(1, 16),
            priority=st.integers(-2, 2),
            cache=CACHES,
            tenant=st.sampled_from(["", "a", "b"]),
        )
        def arrive_with_options(
            self, prompt: list[int], max_tokens: int, priority: int, cache: CacheParams, tenant: str
        ) -> None:
            self.rig.arrive(prompt, max_tokens, priority, cache, tenant=tenant)

        @rule()
        def step(self) -> None:
            self.rig.step()

        @rule()
        def complete(self) -> None:
            self.rig.complete()

        @rule(times=st.integers(1, 8))
        def run(self, times: int) -> None:
            for _ in range(times):
                self.rig.step()
                self.rig.complete()

        @precondition(lambda self: self.rig.clients)
        @rule(index=st.integers(0, 100))
        def cancel(self, index: int) -> None:
            self.rig.cancel(index)

        @rule()
        def lose_executor(self) -> None:
            self.rig.lose_executor()

        @rule()
        def lose_scheduler(self) -> None:
            self.rig.lose_scheduler()

        @rule()
        def flush_ledger(self) -> None:
            self.rig.flush_ledger()

        def teardown(self) -> None:
            self.rig.close()

    return Interleavings


CONFIGS = {
    "guaranteed": SchedulerConfig(max_num_tokens=64, max_waiting_requests=20),
    "guaranteed, small steps, strict order": SchedulerConfig(max_num_tokens=7, max_passes=0),
    "utilization": SchedulerConfig(max_num_tokens=64, capacity_policy="MAX_UTILIZATION"),
    "utilization, small steps, equal progress": SchedulerConfig(
        max_num_tokens=9, capacity_policy="MAX_UTILIZATION", micro_batch_policy="EQUAL_PROGRESS"
    ),
    "static, equal progress": SchedulerConfig(
        max_num_tokens=16, capacity_policy="STATIC_BATCH", micro_batch_policy="EQUAL_PROGRESS", target_itl_ms=1
    ),
}


advance = GenerationBatch.advance


def advance_all(self: GenerationBatch, stalled: Iterable[int]) -> Int32Array:
    assert not list(stalled)
    return advance(self)


# Sliding windows of cache groups, 0: none; shorter and longer than a block.
GROUPS = {
    "full and sliding": (0, 6),
    "sliding alone": (5,),
    "narrow and wide windows": (0, 1, 4, 13),
    "two that see everything": (0, 0, 9),
}


def explore(redis_url: str | None, config: SchedulerConfig, num_examples: int, windows: tuple[int, ...] = ()) -> None:
    run_state_machine_as_test(
        machine(redis_url, config, windows),
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_with_the_memory_ledger(config: SchedulerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 8,000 actions each. Where nothing is paused, nobody waits for a block either."""
    if config.capacity_policy != "MAX_UTILIZATION":
        monkeypatch.setattr(GenerationBatch, "advance", advance_all)
    explore(None, config, 160)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_with_both_ledgers(redis_url: str, config: SchedulerConfig) -> None:
    """Up to 2,000 actions each."""
    explore(redis_url, config, 40)


@pytest.mark.parametrize("windows", GROUPS.values(), ids=GROUPS)
def test_cache_groups(redis_url: str, windows: tuple[int, ...]) -> None:
    """Up to 1,000 actions each."""
    explore(None, CONFIGS["guaranteed, small steps, strict order"], 10, windows)
    explore(redis_url, CONFIGS["utilization"], 10, windows)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("windows", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_cache_groups_long(redis_url: str, config: SchedulerConfig, windows: tuple[int, ...]) -> None:
    """Up to 100,000 actions each."""
    explore(None, config, 1_900, windows)
    explore(redis_url, config, 100, windows)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_long(redis_url: str, config: SchedulerConfig) -> None:
    explore(None, config, 10_000)
    explore(redis_url, config, 1_000)
