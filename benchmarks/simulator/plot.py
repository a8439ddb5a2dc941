"""Curves of a comparison; needs matplotlib."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from simulator.outcome import Outcome


def plot(outcomes: Mapping[tuple[str, float], Outcome], path: Path) -> None:
    """Throughput over over-subscription, and at the highest of it how TTFT and ITL are distributed.

    Args:
        outcomes: by policy and over-subscription.
        path: ends in .svg, .png or .pdf, which chooses the format.
    """
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    throughput, first, later = figure.subplots(1, 3)
    names = list(dict.fromkeys(name for name, _ in outcomes))
    factors = sorted({factor for _, factor in outcomes})
    for name in names:
        throughput.plot(factors, [outcomes[name, each].tokens_per_second for each in factors], "o-", label=name)
        last = outcomes[name, factors[-1]]
        first.ecdf([value / 1e6 for value in last.ttft_us], label=name)
        later.ecdf(np.array(last.itl_us) / 1e3, label=name)
    throughput.set(xlabel="over-subscription of the pool", ylabel="output tokens/s")
    throughput.set_ylim(bottom=0)
    first.set(xlabel="time to first token (s)", ylabel="share of requests", title=f"{factors[-1]:g}x")
    later.set(xlabel="inter-token latency (ms)", ylabel="share of tokens", title=f"{factors[-1]:g}x", xscale="log")
    for axes in (throughput, first, later):
        axes.grid(alpha=0.3)
    throughput.legend(fontsize=8)
    figure.savefig(path)
