"""The table of a storm."""

import statistics
from collections.abc import Iterable, Iterator, Mapping

from chaos.fault import Kind
from chaos.storm import Row

HEADER = (
    "fault",
    "faults",
    "requests touched",
    "lost",
    "different",
    "refused, retried",
    "recovery, s: median",
    "p99",
    "longest",
    "tokens recomputed",
)


def table(rows: Mapping[str, Row]) -> Iterator[str]:
    """Its lines, in Markdown."""
    yield _line(HEADER)
    yield "|---" * len(HEADER) + "|"
    for name, row in sorted(rows.items()):
        if row.num_faults:
            yield _line((name, *_cells(row)))
    yield _line(("all", *_cells(sum(rows.values(), Row()))))


def late(rows: Mapping[str, Row], kinds: Iterable[Kind]) -> Iterator[str]:
    """Where requests went on later than is promised."""
    for kind in dict.fromkeys(kinds):
        row = rows.get(kind.name, Row())
        if kind.limit is not None and row.recoveries and percentile99(row.recoveries) > kind.limit:
            yield f"{kind.name}: {percentile99(row.recoveries):.2f} s, promised are {kind.limit:g} s"


def percentile99(values: list[float]) -> float:
    """As the inclusive method has it; of one value, that."""
    return statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]


def _cells(row: Row) -> Iterator[str]:
    yield from map(str, (row.num_faults, row.num_touched, row.num_lost, row.num_different))
    yield f"{row.num_refused}, {row.num_retried}"
    if row.recoveries:
        figures = statistics.median(row.recoveries), percentile99(row.recoveries), max(row.recoveries)
        yield from (f"{value:.2f}" for value in figures)
    else:
        yield from ("", "", "")
    yield f"{row.num_recomputed:,}"


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
