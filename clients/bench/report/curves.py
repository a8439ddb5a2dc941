"""Latency over throughput, one point per load."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from quire.clients.bench.document import Run

_METRICS = {
    "ttft_ms": "time to first token (ms)",
    "itl_ms": "inter-token latency (ms)",
    "e2e_ms": "end to end (ms)",
}


def draw(runs: Sequence[Run]) -> Figure:
    """Three curves side by side: median and 99th percentile over output tokens per second."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, len(_METRICS)), _METRICS.items(), strict=True):
        points = [run for run in runs if run.summary[key] is not None]
        x = [run.summary["output_tokens_per_s"] for run in points]
        for percentile in ("p50", "p99"):
            axes.plot(x, [run.summary[key][percentile] for run in points], marker="o", label=percentile)
        for run, place in zip(points, x, strict=True):
            axes.annotate(
                run.name, (place, run.summary[key]["p50"]), fontsize=7, xytext=(4, 4), textcoords="offset points"
            )
        axes.set_xlabel("output tokens/s")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def to_svg(figure: Figure) -> str:
    """An <svg> element for a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_png(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=120)
