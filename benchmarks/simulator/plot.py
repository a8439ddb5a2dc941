"""Curves of a comparison."""

from pathlib import Path

import numpy as np

from simulator.simulation import Outcome

# The plot is an option; nothing else here needs the library.
try:
    from matplotlib import pyplot
except ImportError:
    pyplot = None  # type: ignore[assignment]


def plot(outcomes: dict[tuple[str, float], Outcome], path: Path) -> None:
    """Throughput against over-subscription, and the distribution of inter-token latency at the highest factor."""
    if pyplot is None:
        raise SystemExit("--plot needs matplotlib: pip install '.[bench]'")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    policies = list(dict.fromkeys(policy for policy, _ in outcomes))
    factors = sorted({factor for _, factor in outcomes})
    for policy in policies:
        left.plot(factors, [outcomes[policy, each].tokens_per_second for each in factors], "o-", label=policy)
        itl = np.sort(outcomes[policy, factors[-1]].itl) / 1e3
        right.plot(itl, np.linspace(0, 1, len(itl)), label=policy)
    left.set(xlabel="over-subscription", ylabel="output tokens/s", ylim=0)
    right.set(xlabel="inter-token latency, ms", ylabel="share", xscale="log", title=f"{factors[-1]:g}x")
    left.legend()
    figure.tight_layout()
    figure.savefig(path)
