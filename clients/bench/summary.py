"""From records to figures."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from quire.clients.bench.cost import CostMeter
from quire.clients.bench.record import Record
from quire.clients.bench.slo import Objective, is_good


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution, in milliseconds; percentiles are interpolated as numpy does."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class GeneratorCost:
    """Cost of the load generator: CPU, lateness of its loop, and of its requests in an open loop."""

    cpu_ms_per_request: float
    cpu_share: float
    lag_p50_ms: float
    lag_p99_ms: float
    late_p99_ms: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One run at one load. Throughput counts what succeeded, from the first sent to the last ended.

    Attributes:
        errors: how many there were of each kind.
        details: what the first of each kind said.
    """

    succeeded: int
    failed: int
    errors: dict[str, int]
    details: dict[str, str]
    seconds: float
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    e2e_ms: Spread | None
    goodput_per_s: float | None
    generator: GeneratorCost

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(records: Sequence[Record], cost: CostMeter, objectives: Sequence[Objective] = ()) -> Summary:
    """The figures of a run; without objectives there is no goodput."""
    done = [record for record in records if record.error is None]
    seconds = max(record.ended for record in records) - min(record.sent for record in records)
    prompt_tokens = sum(record.prompt_tokens for record in done)
    output_tokens = sum(record.output_tokens for record in done)
    good = sum(is_good(record, objectives) for record in records)
    return Summary(
        succeeded=len(done),
        failed=len(records) - len(done),
        errors=dict(Counter(record.error for record in records if record.error is not None)),
        # The first detail of each error stays.
        details={record.error: record.detail for record in reversed(records) if record.error is not None},
        seconds=seconds,
        requests_per_s=len(done) / seconds,
        output_tokens_per_s=output_tokens / seconds,
        total_tokens_per_s=(prompt_tokens + output_tokens) / seconds,
        prompt_tokens=prompt_tokens,
        cached_tokens=sum(record.cached_tokens for record in done),
        output_tokens=output_tokens,
        ttft_ms=spread(record.ttft for record in done),
        tpot_ms=spread(tpot for record in done if (tpot := record.tpot) is not None),
        itl_ms=spread(gap for record in done for gap in record.gaps),
        e2e_ms=spread(record.e2e for record in done),
        goodput_per_s=good / seconds if objectives else None,
        generator=GeneratorCost(
            cpu_ms_per_request=cost.cpu_seconds * 1000 / len(records),
            cpu_share=cost.cpu_seconds / cost.wall_seconds,
            lag_p50_ms=cost.lag(50) * 1000,
            lag_p99_ms=cost.lag(99) * 1000,
            late_p99_ms=float(np.percentile([record.late for record in records], 99)) * 1000,
        ),
    )


def spread(seconds: Iterable[float]) -> Spread | None:
    """Mean and percentiles of times in seconds; None if there are none."""
    values = np.fromiter(seconds, np.float64) * 1000
    if not values.size:
        return None
    return Spread(float(values.mean()), *(float(value) for value in np.percentile(values, (50, 90, 95, 99))))
