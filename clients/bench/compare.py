"""`quire bench compare`: two results, load by load."""

from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from quire.clients.bench.document import Document, Run, read_document
from quire.clients.bench.report.table import aligned

_METRICS = (
    ("req/s", ("requests_per_s",)),
    ("out tok/s", ("output_tokens_per_s",)),
    ("TTFT p50", ("ttft_ms", "p50")),
    ("TTFT p99", ("ttft_ms", "p99")),
    ("ITL p50", ("itl_ms", "p50")),
    ("ITL p99", ("itl_ms", "p99")),
    ("E2E p50", ("e2e_ms", "p50")),
    ("E2E p99", ("e2e_ms", "p99")),
)
# Settings that say what is sent. Loads are compared by name, and seeds may differ.
_WORKLOAD = (
    "num_requests",
    "input_tokens",
    "output_tokens",
    "prefix_tokens",
    "num_prefixes",
    "num_turns",
    "trace",
    "trace_format",
    "trace_speed",
    "vocab_size",
    "ignore_eos",
    "temperature",
    "burstiness",
    "max_concurrency",
)


class Settings(BaseSettings):
    """Print the ratios A / B of two results of `quire bench serve --json`, for every load that both have."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, cli_kebab_case=True)

    a: CliPositionalArg[Path]
    """A result."""

    b: CliPositionalArg[Path]
    """The result to divide by."""


def run(settings: Settings) -> int:
    """Returns the exit code: 1 if the results have no load in common."""
    a, b = read_document(settings.a), read_document(settings.b)
    print(comparison(a, b, str(settings.a), str(settings.b)))
    return 0 if common_loads(a, b) else 1


def comparison(a: Document, b: Document, name_a: str, name_b: str) -> str:
    """Which result is which, their ratios A / B, and what to know before believing them."""
    lines = [_identity("A", name_a, a), _identity("B", name_b, b)]
    if common_loads(a, b):
        lines += ["", aligned(ratio_rows(a.runs, b.runs)), "req/s and tok/s: above 1, A is better; latencies: below 1"]
    return "\n".join([*lines, *(f"warning: {line}" for line in doubts(a, b))])


def common_loads(a: Document, b: Document) -> set[str]:
    """Names of the loads that both results have."""
    return {run.name for run in a.runs} & {run.name for run in b.runs}


def doubts(a: Document, b: Document) -> list[str]:
    """Why the ratios may say nothing about the servers."""
    found = []
    if (target := _both(a, b, "target")) is not None and (source := _same_prompts(a, b)) is not None:
        found.append(
            f"both sent the same prompts to {target}, so the later run may have found them in its cache: {source}"
        )
    for name in _WORKLOAD:
        if a.settings.get(name) != b.settings.get(name):
            found.append(f"different workloads: {name} is {a.settings.get(name)!r} in A, {b.settings.get(name)!r} in B")
    if a.machine != b.machine:
        found.append(f"the load generators ran on different machines: {a.machine} in A, {b.machine} in B")
    for name, one, other in (("A", a, b), ("B", b, a)):
        if only := [run.name for run in one.runs if run.name not in common_loads(one, other)]:
            found.append(f"only in {name}: {', '.join(only)}")
    return found


def ratio_rows(ours: Sequence[Run], theirs: Sequence[Run]) -> list[list[str]]:
    """Header and rows of ratios; throughput above 1 and latency below 1 are better for the first."""
    others = {other.name: other for other in theirs}
    rows = [["A / B", *(name for name, _ in _METRICS)]]
    for one in ours:
        if other := others.get(one.name):
            rows.append([one.name, *(_ratio(one, other, path) for _, path in _METRICS)])
    return rows


def _identity(letter: str, name: str, document: Document) -> str:
    target, seed = document.settings.get("target", "in process"), document.settings.get("seed")
    return f"{letter}  {name}: {document.model} at {target}, {document.when}, quire {document.quire}, seed {seed}"


def _same_prompts(a: Document, b: Document) -> str | None:
    """Where both had the same prompts from: a trace that has them, or the seed of random ones."""
    trace, seed = _both(a, b, "trace"), _both(a, b, "seed")
    if trace is not None and _both(a, b, "trace_format") == "jsonl":
        return f"trace {trace}"
    return None if seed is None else f"seed {seed}; without --seed each run has prompts of its own"


def _both(a: Document, b: Document, name: str) -> object | None:
    """The setting's value if it is the same in both."""
    value: object | None = a.settings.get(name)
    return value if value == b.settings.get(name) else None


def _ratio(one: Run, other: Run, path: Sequence[str]) -> str:
    above, below = one.figure(*path), other.figure(*path)
    return f"{above / below:.3f}" if above is not None and below else "-"
