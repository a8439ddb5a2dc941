"""The simulator that judges policies, and what it must show of MAX_UTILIZATION."""

from pathlib import Path

import pytest
from simulator.executor import StepTime
from simulator.simulation import Outcome, simulate
from simulator.trace import lognormal, pool_size, recorded

from quire.engine.config import SchedulerConfig

BATCH = 64


def run(policy: str, seed: int, factor: float = 2.0, slack: float = 3.0, num_jobs: int = 150) -> Outcome:
    jobs = lognormal(num_jobs, 0.0, slack, seed)
    config = SchedulerConfig(
        capacity_policy=policy, max_batch_size=BATCH, max_waiting_requests=num_jobs, max_waiting_tokens=10**9
    )
    return simulate(jobs, config, pool_size(jobs, BATCH, factor), StepTime())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("slack", [1.0, 3.0])
def test_max_utilization_is_at_least_as_fast_when_the_pool_is_half_as_large(seed: int, slack: float) -> None:
    guaranteed = run("GUARANTEED_NO_EVICT", seed, slack=slack)
    utilized = run("MAX_UTILIZATION", seed, slack=slack)
    assert utilized.tokens_per_second >= guaranteed.tokens_per_second
    assert utilized.num_recomputed < 0.1 * utilized.num_tokens, "it thrashes"


def test_what_a_run_counts() -> None:
    outcome = run("GUARANTEED_NO_EVICT", seed=0)
    jobs = lognormal(150, 0.0, 3.0, 0)
    assert outcome.num_tokens == sum(job.output_len for job in jobs)
    assert len(outcome.ttft) == 150
    assert len(outcome.itl) == outcome.num_tokens - 150
    assert outcome.num_pauses == outcome.num_recomputed == 0
    assert max(outcome.usage) <= 1
    again = run("GUARANTEED_NO_EVICT", seed=0)
    assert (again.duration, again.itl) == (outcome.duration, outcome.itl)


def test_a_step_takes_what_its_parts_take() -> None:
    """One request alone: a step for its context, then one for each further token."""
    jobs = lognormal(1, 0.0, 1.0, seed=4)
    config = SchedulerConfig(max_num_tokens=8192)
    step_time = StepTime(base_us=1000, context_us=2, row_us=3, kv_us=0)
    outcome = simulate(jobs, config, 1000, step_time)
    assert outcome.ttft == [1000 + 2 * jobs[0].prompt_len]
    assert outcome.itl == pytest.approx([1003] * (jobs[0].output_len - 1))


def test_static_batches_are_batches() -> None:
    outcome = run("STATIC_BATCH", seed=0, factor=1.0)
    alone = run("STATIC_BATCH", seed=0, factor=1.0, num_jobs=1)
    assert outcome.tokens_per_second > 2 * alone.tokens_per_second


def test_recorded_traces(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
    )
    jobs = recorded(path, "azure", slack=2.0, limit=10)
    assert [(job.prompt_len, job.output_len, job.max_tokens) for job in jobs] == [(374, 44, 88), (396, 109, 218)]
    assert jobs[1].arrival - jobs[0].arrival == pytest.approx(4_314_579, abs=1)
