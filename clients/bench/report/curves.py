"""Latency over throughput, one point per load."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quire.clients.bench.document import Run

_METRICS = {
    "ttft_ms": "time to first token (ms)",
    "itl_ms": "inter-token latency (ms)",
    "e2e_ms": "end to end (ms)",
}


def draw(runs: Sequence[Run]) -> Figure:
    """Three curves side by side: median and 99th percentile over output tokens per second.

    A point's label is its load, such as 4 of "concurrency 4"; the title says what the numbers are.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    if runs:
        figure.suptitle(f"labels: {next(iter(runs[0].load)).replace('_', ' ')}", fontsize=9)
    for axes, (key, label) in zip(figure.subplots(1, len(_METRICS)), _METRICS.items(), strict=True):
        points = [run for run in runs if run.summary[key] is not None]
        x = [run.summary["output_tokens_per_s"] for run in points]
        for percentile in ("p50", "p99"):
            axes.plot(x, [run.summary[key][percentile] for run in points], marker="o", label=percentile)
        for run, place in zip(points, x, strict=True):
            axes.annotate(
                run.name.rpartition(" ")[2],
                (place, run.summary[key]["p99"]),
                fontsize=8,
                xytext=(0, 6),
                textcoords="offset points",
                horizontalalignment="center",
            )
        axes.set_xlabel("output tokens/s")
        axes.set_ylabel(label)
        _leave_room(axes, x, [run.summary[key]["p99"] for run in points])
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _leave_room(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    """Labels of the outermost points stay inside."""
    width, height = max(x, default=0.0) or 1.0, max(y, default=0.0) or 1.0
    axes.set_xlim(-0.1 * width, 1.1 * width)
    axes.set_ylim(0, 1.15 * height)


def to_svg(figure: Figure) -> str:
    """An <svg> element for a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_png(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=120)
