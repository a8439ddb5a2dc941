"""`quire bench compare`: two results, load by load."""

from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from quire.clients.bench.document import Run, read_runs
from quire.clients.bench.report.table import aligned
from quire.engine.api.errors import StartupError

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


class Settings(BaseSettings):
    """Print the ratios A / B of two results of `quire bench serve --json`, for every load that both have."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, cli_kebab_case=True)

    a: CliPositionalArg[Path]
    """A result."""

    b: CliPositionalArg[Path]
    """The result to divide by."""


def run(settings: Settings) -> int:
    """Returns the exit code."""
    rows = ratio_rows(read_runs(settings.a), read_runs(settings.b))
    if len(rows) == 1:
        raise StartupError(f"{settings.a} and {settings.b} have no load in common")
    print(aligned(rows))
    return 0


def ratio_rows(ours: Sequence[Run], theirs: Sequence[Run]) -> list[list[str]]:
    """Header and rows of ratios; throughput above 1 and latency below 1 are better for the first."""
    others = {other.name: other for other in theirs}
    rows = [["load", *(name for name, _ in _METRICS)]]
    for one in ours:
        if other := others.get(one.name):
            rows.append([one.name, *(_ratio(one, other, path) for _, path in _METRICS)])
    return rows


def _ratio(one: Run, other: Run, path: Sequence[str]) -> str:
    above, below = _at(one, path), _at(other, path)
    return f"{above / below:.3f}" if above is not None and below else "-"


def _at(run: Run, path: Sequence[str]) -> float | None:
    found = run.summary
    for name in path[:-1]:
        found = found.get(name) or {}
    value = found.get(path[-1])
    return None if value is None else float(value)
