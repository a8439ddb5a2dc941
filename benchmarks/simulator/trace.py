"""Traces with long-tailed lengths: our own, or a recorded one."""

from pathlib import Path

import numpy as np

from quire.clients.bench.workload.traces import read_trace
from simulator.simulation import BLOCK_SIZE, Job


def lognormal(num_jobs: int, rate: float, slack: float, seed: int) -> list[Job]:
    """Prompts of 300 tokens and outputs of 250 at the median, both with a long tail; Poisson arrivals.

    Args:
        rate: requests per second; 0: all come at once.
        slack: max_tokens over the real output length, as clients guess it.
    """
    rng = np.random.default_rng(seed)
    prompts = np.clip(rng.lognormal(np.log(300), 0.9, num_jobs), 8, 4_000).astype(int)
    outputs = np.clip(rng.lognormal(np.log(250), 0.8, num_jobs), 4, 2_000).astype(int)
    gaps = rng.exponential(1e6 / rate, num_jobs) if rate else np.zeros(num_jobs)
    return [
        Job(arrival, int(prompt), int(output), max(1, int(output * slack)))
        for arrival, prompt, output in zip(np.cumsum(gaps), prompts, outputs, strict=True)
    ]


def recorded(path: Path, trace_format: str, slack: float, limit: int) -> list[Job]:
    """A trace in one of the formats that `quire bench` reads: jsonl, azure or mooncake."""
    jobs = []
    for entry in read_trace(path, trace_format, limit):
        prompt, output = max(1, entry.input_tokens), max(1, entry.output_tokens)
        jobs.append(Job((entry.at or 0.0) * 1e6, prompt, output, max(1, int(output * slack))))
    return jobs


def pool_size(jobs: list[Job], max_batch_size: int, factor: float) -> int:
    """Blocks for a full batch of average sequences at their ends, divided by the over-subscription."""
    lengths = [job.prompt_len + job.output_len for job in jobs]
    full = min(max_batch_size, len(jobs)) * float(np.mean(lengths)) / BLOCK_SIZE
    # Whatever the factor, the longest request must be able to run alone.
    longest = max(job.prompt_len + job.max_tokens for job in jobs) // BLOCK_SIZE + 2
    return max(int(full / factor), longest)
