"""Prometheus' text format, version 0.0.4.

Written here: an endpoint picker asks a frontend twenty times a second, and prometheus-client takes ten times as long
for each answer.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from quire.services.common.metrics.cells import Histogram, Value
from quire.services.common.metrics.metric import Metric

Labels: TypeAlias = Iterable[tuple[str, str]]


def family_lines(
    name: str,
    metric: Metric,
    common: Labels,
    names: Sequence[str],
    cells: Mapping[tuple[str, ...], Value | Histogram],
) -> list[str]:
    """All lines of a metric.

    Args:
        common: labels of each cell.
        names: of the labels whose values are the cells' keys.
    """
    lines = [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
    for values, cell in cells.items():
        labels = _written((*common, *zip(names, values, strict=True)))
        if isinstance(cell, Value):
            lines.append(f"{name}{{{labels}}} {cell.value}" if labels else f"{name} {cell.value}")
            continue
        comma = "," if labels else ""
        for bound, count in cell.buckets:
            lines.append(f'{name}_bucket{{{labels}{comma}le="{bound}"}} {count}')
        lines.append(f"{name}_count{{{labels}}} {count}")
        lines.append(f"{name}_sum{{{labels}}} {cell.sum}")
    return lines


def _written(labels: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)


def _escaped(value: str) -> str:
    """A value that comes from outside may have any character: a model's name."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
