"""Runs as a table, one row each."""

from collections.abc import Sequence
from typing import Any

from quire.clients.bench.document import Run

_SPREADS = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL", "e2e_ms": "E2E"}
_PERCENTILES = ("mean", "p50", "p90", "p95", "p99")
# Above these the generator may be what is measured.
_BUSY_SHARE = 0.8
_LATE_MS = 10.0


def throughput_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Header and rows: what was done per second, and what it cost the generator."""
    head = ["load", "ok", "failed", "req/s", "out tok/s", "total tok/s", "cached tok", "goodput/s"]
    rows = [[*head, "gen. CPU ms/req", "gen. CPU %", "gen. lag p99 ms"]]
    for run in runs:
        s, g = run.summary, run.summary["generator"]
        goodput = "-" if s["goodput_per_s"] is None else f"{s['goodput_per_s']:.2f}"
        figures = [
            f"{s['requests_per_s']:.2f}",
            f"{s['output_tokens_per_s']:.1f}",
            f"{s['total_tokens_per_s']:.1f}",
        ]
        cost = [f"{g['cpu_ms_per_request']:.2f}", f"{g['cpu_share'] * 100:.0f}", f"{g['lag_p99_ms']:.1f}"]
        rows.append(
            [run.name, str(s["succeeded"]), str(s["failed"]), *figures, str(s["cached_tokens"]), goodput, *cost]
        )
    return rows


def latency_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Header and rows: each metric's distribution in milliseconds."""
    rows = [["load", "metric (ms)", *_PERCENTILES]]
    for run in runs:
        for key, name in _SPREADS.items():
            found: dict[str, Any] | None = run.summary[key]
            if found is not None:
                rows.append([run.name, name, *(f"{found[percentile]:.1f}" for percentile in _PERCENTILES)])
    return rows


def warnings(runs: Sequence[Run]) -> list[str]:
    """Warnings to read before the figures."""
    lines = []
    for run in runs:
        generator = run.summary["generator"]
        if generator["cpu_share"] > _BUSY_SHARE:
            lines.append(f"{run.name}: the generator was busy {generator['cpu_share'] * 100:.0f} % of the time")
        if generator["lag_p99_ms"] > _LATE_MS:
            lines.append(
                f"{run.name}: 1 % of the generator's wake-ups were {generator['lag_p99_ms']:.0f} ms late or more"
            )
        details = run.summary["details"]
        lines += [f"{run.name}: {count} x {kind}: {details[kind]}" for kind, count in run.summary["errors"].items()]
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Text with columns of equal width, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
