"""What a simulation showed."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

HEADER = (
    "| over-subscription | blocks | policy | requests/s | output tokens/s | TTFT p50/p90/p99, s | ITL p50/p90/p99, ms "
    "| pauses | recomputed tokens | KV used |\n|" + "---|" * 10
)


@dataclass
class Outcome:
    """Counts and times of one run; times in microseconds.

    Attributes:
        num_blocks: of the pool.
        duration_us: from 0 to the last token.
        num_requests, num_tokens: served; tokens are output tokens.
        num_starts: more than requests where some were paused.
        num_recomputed: positions whose KV was computed again.
        peak_blocks: the most blocks held at once.
        held_us: blocks held, times how long.
        ttft_us: from arrival to first token, one per request.
        itl_us: between tokens of a request, one per token but the first.
        context_of, generated_of: tokens of prompts and of answers, by tenant.
    """

    num_blocks: int
    duration_us: float = 0.0
    num_requests: int = 0
    num_tokens: int = 0
    num_starts: int = 0
    num_recomputed: int = 0
    peak_blocks: int = 0
    held_us: float = 0.0
    ttft_us: list[float] = field(default_factory=list)
    itl_us: list[float] = field(default_factory=list)
    context_of: Counter[str] = field(default_factory=Counter)
    generated_of: Counter[str] = field(default_factory=Counter)

    @property
    def num_pauses(self) -> int:
        return self.num_starts - self.num_requests

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.duration_us * 1e6

    @property
    def usage(self) -> float:
        """Mean share of the pool that is held."""
        return self.held_us / self.duration_us / self.num_blocks

    def row(self, factor: float, name: str) -> str:
        """A line below `HEADER`."""
        ttft = "/".join(f"{value / 1e6:.2f}" for value in np.percentile(self.ttft_us, (50, 90, 99)))
        itl = "/".join(f"{value / 1e3:.1f}" for value in np.percentile(self.itl_us or [0.0], (50, 90, 99)))
        return (
            f"| {factor:g}x | {self.num_blocks:,} | {name} | {self.num_requests / self.duration_us * 1e6:.2f} "
            f"| {self.tokens_per_second:,.0f} | {ttft} | {itl} | {self.num_pauses} "
            f"| {self.num_recomputed:,} ({self.num_recomputed / self.num_tokens:.1%}) | {self.usage:.0%} |"
        )
