"""Service level objectives: a request that meets all of them is good."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from quire.clients.bench.record import Record
from quire.engine.api.errors import StartupError

Metric = Literal["ttft", "tpot", "itl", "e2e"]


@dataclass(frozen=True, slots=True)
class Objective:
    """`itl` holds for every gap between two messages of a request, `tpot` for their mean per token."""

    metric: Metric
    limit_ms: float

    def is_met(self, record: Record) -> bool:
        match self.metric:
            case "ttft":
                seconds = record.ttft
            case "tpot":
                seconds = record.tpot or 0.0
            case "itl":
                seconds = max(record.gaps, default=0.0)
            case "e2e":
                seconds = record.e2e
        return seconds * 1000 <= self.limit_ms


def parse_objectives(texts: Sequence[str]) -> tuple[Objective, ...]:
    """Objectives such as "ttft:200", in milliseconds.

    Raises:
        StartupError: one cannot be read.
    """
    return tuple(map(_parse, texts))


def is_good(record: Record, objectives: Sequence[Objective]) -> bool:
    """Whether a request succeeded and meets all of them."""
    return record.error is None and all(objective.is_met(record) for objective in objectives)


def _parse(text: str) -> Objective:
    name, _, limit = text.partition(":")
    for metric in get_args(Metric):
        if name == metric:
            try:
                limit_ms = float(limit)
            except ValueError:
                break
            if limit_ms > 0:  # which NaN is not
                return Objective(metric, limit_ms)
    raise StartupError(f"--slo {text}: must be {'|'.join(get_args(Metric))}:MILLISECONDS, above 0")
