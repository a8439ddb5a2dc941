"""The simulator that judges policies, and what it must show of MAX_UTILIZATION."""

import json
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest
from simulator.executor import StepTime
from simulator.job import Job
from simulator.outcome import Outcome
from simulator.simulation import Simulation, num_to_completion, peak_demand
from simulator.trace import Slack, drawn, parse_slack, recorded

from quire.clients.bench.workload.lengths import LogNormal
from quire.engine.api.errors import StartupError
from quire.engine.config import SchedulerConfig

CONFIG = SchedulerConfig(max_waiting_requests=200, max_waiting_tokens=10**9)
MAX_BATCH_SIZE = 32
AT_ONCE = float("inf")


def jobs_of(seed: int, slack: Slack, count: int = 80, rate: float = AT_ONCE) -> list[Job]:
    return drawn(count, rate, LogNormal(300, 0.9), LogNormal(160, 0.7), slack, seed)


def run(jobs: list[Job], policy: str, num_blocks: int, check: bool = False) -> Outcome:
    config = CONFIG.model_copy(update={"capacity_policy": policy})
    return Simulation(jobs, config, num_blocks, StepTime(), MAX_BATCH_SIZE, check).run()


@pytest.fixture(scope="module", params=range(3))
def seed(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


def run_with_half_the_pool(seed: int, slack: Slack) -> tuple[Outcome, Outcome]:
    """(of GUARANTEED_NO_EVICT, of MAX_UTILIZATION)."""
    jobs = jobs_of(seed, slack)
    num_blocks = max(peak_demand(jobs, CONFIG, StepTime(), MAX_BATCH_SIZE) // 2, *map(num_to_completion, jobs))
    guaranteed = run(jobs, "GUARANTEED_NO_EVICT", num_blocks)
    utilized = run(jobs, "MAX_UTILIZATION", num_blocks)
    assert guaranteed.num_pauses == guaranteed.num_recomputed == 0
    assert 0 < utilized.num_pauses < len(jobs)
    assert utilized.num_recomputed < 0.1 * utilized.num_tokens, "it thrashes"
    return guaranteed, utilized


def test_max_utilization_gains_where_clients_allow_more_than_they_get(seed: int) -> None:
    guaranteed, utilized = run_with_half_the_pool(seed, Slack(2, 4))
    assert utilized.tokens_per_second >= guaranteed.tokens_per_second


def test_a_guarantee_costs_nothing_where_clients_know_the_length_of_their_answers(seed: int) -> None:
    """What ends early is counted on: sequences need not have all their blocks when they start."""
    guaranteed, utilized = run_with_half_the_pool(seed, Slack(1, 1))
    assert guaranteed.tokens_per_second >= 0.9 * utilized.tokens_per_second


@pytest.mark.parametrize("policy", ["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"])
def test_a_run_serves_everything_with_sound_books_and_repeats_itself(policy: str) -> None:
    jobs = jobs_of(0, Slack(1, 3), count=24, rate=20.0)
    num_blocks = max(map(num_to_completion, jobs)) + 20
    outcome = run(jobs, policy, num_blocks, check=True)
    assert outcome.num_requests == len(outcome.ttft_us) == 24
    assert outcome.num_tokens == sum(job.output_len for job in jobs) == len(outcome.itl_us) + 24
    assert min(outcome.ttft_us) >= StepTime().base_us
    assert 0 < outcome.usage < outcome.peak_blocks / num_blocks <= 1
    assert run(jobs_of(0, Slack(1, 3), count=24, rate=20.0), policy, num_blocks) == outcome


def test_a_step_takes_what_its_parts_take() -> None:
    """One request alone, which comes after a while: a step for its context, then one for each further token."""
    job = Job(5_000_000.0, np.arange(1, 101, dtype=np.int32), output_len=4, max_tokens=9)
    step_time = StepTime(base_us=1000, context_us=2, row_us=30, kv_us=0.5)
    outcome = Simulation([job], CONFIG, 10, step_time, MAX_BATCH_SIZE).run()
    assert outcome.ttft_us == [1000 + 2 * 100 + 0.5 * 100]
    assert outcome.itl_us == [1030 + 0.5 * num_kv for num_kv in (101, 102, 103)]
    # The end is known a step after it was sampled; the step planned meanwhile counts for nobody.
    assert (outcome.num_tokens, outcome.num_recomputed) == (4, 0)


def test_static_batches_wait_for_their_last() -> None:
    """Three sequences, two at a time: a static batch leaves the place of the one that ends first empty."""
    prompt = np.arange(1, 11, dtype=np.int32)
    jobs = [Job(0.0, prompt + i, output_len, output_len) for i, output_len in enumerate((100, 10, 50))]
    durations = {}
    for policy in ("GUARANTEED_NO_EVICT", "STATIC_BATCH"):
        chosen = CONFIG.model_copy(update={"capacity_policy": policy})
        durations[policy] = Simulation(jobs, chosen, 100, StepTime(1000, 0, 0, 0), 2).run().duration_us
    assert durations["GUARANTEED_NO_EVICT"] == 100_000
    assert 150_000 <= durations["STATIC_BATCH"] <= 152_000


def test_public_traces(tmp_path: Path) -> None:
    azure, mooncake = tmp_path / "azure.csv", tmp_path / "mooncake.jsonl"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
    )
    jobs = recorded(azure, "azure", 10, Slack(2, 2), seed=0, speed=2.0)
    assert [(len(job.prompt), job.output_len, job.max_tokens) for job in jobs] == [(374, 44, 88), (396, 109, 218)]
    assert jobs[1].arrival_us - jobs[0].arrival_us == pytest.approx(4_314_579 / 2, abs=1)
    rows = [{"timestamp": at, "input_length": 600, "output_length": 5, "hash_ids": [7, 8 + at]} for at in (0, 3000)]
    mooncake.write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs = recorded(mooncake, "mooncake", 10, Slack(1, 1), seed=0, speed=1.0)
    assert (jobs[0].prompt[:512] == jobs[1].prompt[:512]).all()
    outcome = Simulation(jobs, CONFIG, 200, StepTime(base_us=0, context_us=1, row_us=0, kv_us=0), MAX_BATCH_SIZE).run()
    assert outcome.ttft_us == [600, 600 - 512], "the shared block was not reused"


def test_what_cannot_be_simulated_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"prompt": "Once", "output_tokens": 3}\n')
    with pytest.raises(StartupError, match="input_ids"):
        recorded(path, "jsonl", 10, Slack(1, 1), seed=0, speed=1.0)
    with pytest.raises(ValueError, match="max_tokens=4, got 5"):
        Job(0.0, np.ones(3, np.int32), output_len=5, max_tokens=4)
    with pytest.raises(StartupError, match="got 0"):
        jobs_of(0, Slack(1, 1), rate=0.0)
    for text in ("0.5", "3:2", "many"):
        with pytest.raises(ArgumentTypeError, match=f"got '{text}'"):
            parse_slack(text)
