"""Settings that the benchmarks share: what is sent."""

import secrets
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from quire.clients.bench.workload.lengths import parse_lengths
from quire.clients.bench.workload.session import Session
from quire.clients.bench.workload.synthetic import Synthetic, synthetic_sessions
from quire.clients.bench.workload.traces import read_trace, trace_sessions
from quire.clients.settings import ClientSettings
from quire.engine.api.errors import StartupError

# What a trace brings itself.
_SHAPES = frozenset({"input_tokens", "output_tokens", "prefix_tokens", "num_prefixes", "num_turns"})
MAX_SEED = 2**63 - 1


def drawn_at_random() -> int:
    """Short, because people copy it."""
    return secrets.randbelow(2**31)


class WorkloadSettings(ClientSettings):
    """Settings of a workload."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_BENCH_")

    num_requests: int = Field(64, ge=1)
    """Requests (sessions, where they have several turns) of each run; of a trace, at most."""

    input_tokens: str = "128"
    """Lengths of prompts: a number, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA."""

    output_tokens: str = "64"
    """Lengths of answers, written alike."""

    prefix_tokens: int = Field(0, ge=0)
    """Length of a shared prefix in front of each prompt."""

    num_prefixes: int = Field(1, ge=1)
    """Shared prefixes to choose from."""

    num_turns: int = Field(1, ge=1)
    """Turns of each session; each sends the history so far."""

    trace: Path | None = None
    """File with a recorded trace, instead of random prompts."""

    trace_format: Literal["jsonl", "azure", "mooncake"] = "jsonl"
    """How the trace is written."""

    trace_speed: float = Field(1.0, gt=0, allow_inf_nan=False)
    """How many times as fast to replay it."""

    vocab_size: int | None = Field(None, ge=2)
    """Random token ids are below this; default: what the server says, or else 1000."""

    ignore_eos: bool = True
    """Go on past end tokens, so that every answer has its full length."""

    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    """0 is greedy."""

    seed: int = Field(default_factory=drawn_at_random, ge=0, le=MAX_SEED)
    """The same seed gives the same workload; default: drawn anew, so that no cache knows the prompts, and printed."""


def make_sessions(settings: WorkloadSettings, vocab_size: int, part: int) -> list[Session]:
    """The sessions of one part of a benchmark; every part has prompts of its own, so that no cache knows them."""
    if settings.trace is not None:
        if others := sorted(_SHAPES & settings.model_fields_set):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
            raise StartupError(f"--trace: it says what is sent; leave out {flags}")
        entries = read_trace(settings.trace, settings.trace_format, settings.num_requests)
        return trace_sessions(entries, vocab_size, settings.seed + part, settings.trace_speed)
    shape = Synthetic(
        parse_lengths(settings.input_tokens, "--input-tokens"),
        parse_lengths(settings.output_tokens, "--output-tokens"),
        vocab_size,
        settings.prefix_tokens,
        settings.num_prefixes,
        settings.num_turns,
    )
    return synthetic_sessions(shape, settings.num_requests, np.random.default_rng((settings.seed, part)))
