"""What a metric is: data, from which a service exports it and the reference is written."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LATENCY_BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0),
)
"""Seconds, of what a client waits for."""
PART_BOUNDS: Final = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
"""Seconds, of a step and its parts."""
RECOVERY_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds, of getting over a fault."""
COUNT_BOUNDS: Final = tuple(float(2**power) for power in range(18))
"""Tokens or sequences."""


class Kind(StrEnum):
    """As Prometheus has them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: with its unit, and `_total` of a counter.
        help: a sentence.
        labels: names, beside those that all metrics of the service have.
        bounds: upper ones of a histogram's buckets.
        is_constant: it does not change while the service runs.
        is_shared: every worker of a frontend has the same value, so one says it.
        needs: what must be there for it to be exported at all; "": nothing.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    is_constant: bool = False
    is_shared: bool = False
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Alias:
    """A metric under a name that others gave to the same.

    Attributes:
        renamed: pairs of our labels and theirs.
        values: makes their value of a label of ours, of a counter or gauge; those that become the same are added up.
            None: they are the same.
    """

    name: str
    of: Metric
    renamed: tuple[tuple[str, str], ...] = ()
    values: Callable[[str], str] | None = None
