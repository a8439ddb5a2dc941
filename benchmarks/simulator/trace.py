"""Jobs with long-tailed lengths: drawn, or as recorded."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quire.clients.bench.workload.arrivals import arrivals
from quire.clients.bench.workload.lengths import Lengths
from quire.clients.bench.workload.synthetic import random_ids
from quire.clients.bench.workload.traces import TraceFormat, read_trace, trace_sessions
from quire.engine.api.errors import StartupError
from simulator.job import Job

VOCAB_SIZE = 32_000
# Drawn lengths are cut here: the tail is long, but a model's context is not endless.
LONGEST = 4_096


@dataclass(frozen=True, slots=True)
class Slack:
    """How much more than the real output length clients allow: `max_tokens` is so many times as large, uniformly."""

    low: float
    high: float

    def sample(self, rng: np.random.Generator, output_lens: NDArray[np.int64]) -> NDArray[np.int64]:
        factors = rng.uniform(self.low, self.high, len(output_lens))
        return np.rint(output_lens * factors).astype(np.int64)


def parse_slack(text: str) -> Slack:
    """`2:4`, or one number for both."""
    low, _, high = text.partition(":")
    try:
        slack = Slack(float(low), float(high or low))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be LOW:HIGH or a number, got {text!r}") from error
    if not 1 <= slack.low <= slack.high < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 1, LOW at most HIGH, got {text!r}")
    return slack


def drawn(count: int, rate: float, inputs: Lengths, outputs: Lengths, slack: Slack, seed: int) -> list[Job]:
    """`count` jobs of Poisson arrivals, `rate` per second, no two prompts alike; infinite: all at once.

    Raises:
        StartupError: the rate is not positive.
    """
    rng = np.random.default_rng(seed)
    if not rate > 0:
        raise StartupError(f"rate: must be above 0, inf for all at once, got {rate}")
    times = arrivals(rng, count, rate)
    input_lens = np.minimum(inputs.sample(rng, count), LONGEST).tolist()
    output_lens = np.minimum(outputs.sample(rng, count), LONGEST)
    limits = slack.sample(rng, output_lens)
    prompts = (np.array(random_ids(rng, length, VOCAB_SIZE), np.int32) for length in input_lens)
    return list(map(Job, (times * 1e6).tolist(), prompts, output_lens.tolist(), limits.tolist()))


def recorded(path: Path, trace_format: TraceFormat, count: int, slack: Slack, seed: int, speed: float) -> list[Job]:
    """The first `count` requests of a trace, `speed` times as fast; without times, all at once.

    Prompts that share blocks by the trace's word share them here.

    Raises:
        StartupError: the trace cannot be read, or its prompts are texts, whose length in tokens is not known.
    """
    sessions = trace_sessions(read_trace(path, trace_format, count), VOCAB_SIZE, seed, speed)
    turns = [session.turns[0] for session in sessions]
    if any(isinstance(turn.prompt, str) for turn in turns):
        raise StartupError(f"{path}: prompts must be `input_ids`; a simulation has no tokenizer for texts")
    output_lens = np.array([turn.output_tokens for turn in turns], np.int64)
    limits = slack.sample(np.random.default_rng(seed), output_lens)
    prompts = (np.array(turn.prompt, np.int32) for turn in turns)
    times = [(session.at or 0.0) * 1e6 for session in sessions]
    return list(map(Job, times, prompts, output_lens.tolist(), limits.tolist()))
