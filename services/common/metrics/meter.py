"""The metrics of one service with their values."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from prometheus_client import ProcessCollector

from quire.services.common.metrics.cells import Histogram, Value
from quire.services.common.metrics.metric import Alias, Kind, Metric
from quire.services.common.metrics.text import Labels, family_lines

_Cells: TypeAlias = dict[tuple[str, ...], Value | Histogram]


class Meter:
    """Hands out a cell for each metric and combination of labels, and writes them all when it is asked.

    Args:
        metrics: of the service; those without labels are exported from the start.
        labels: that all of them have.
        worker: of a frontend with several, which one: a label of what is not shared. "": there is one.
        aliases: exported, too, with `alias_labels` in addition.
    """

    def __init__(
        self,
        metrics: Iterable[Metric],
        labels: Mapping[str, str],
        *,
        worker: str = "",
        aliases: Iterable[Alias] = (),
        alias_labels: Mapping[str, str] | None = None,
    ) -> None:
        self._cells: dict[Metric, _Cells] = {metric: {} for metric in metrics}
        self._labels = tuple(labels.items())
        self._worker = (("worker", worker),) if worker else ()
        self._aliases = tuple(aliases)
        self._alias_labels = tuple((alias_labels or {}).items())
        self._refreshers: list[Callable[[], None]] = []
        self._process = ProcessCollector(registry=None)
        for metric in self._cells:
            if not metric.labels and not metric.needs:
                self._cells[metric][()] = _new(metric)

    def value(self, metric: Metric, *labels: str) -> Value:
        """The cell of a counter or gauge; the same one for the same labels."""
        cell = self._cell(metric, labels)
        assert isinstance(cell, Value)
        return cell

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """The cell of a histogram; the same one for the same labels."""
        cell = self._cell(metric, labels)
        assert isinstance(cell, Histogram)
        return cell

    def before_each(self, refresh: Callable[[], None]) -> None:
        """Calls it whenever metrics are asked for: it sets what is not counted as it happens."""
        self._refreshers.append(refresh)

    def retain(self, label: str, values: Iterable[str]) -> None:
        """Drops what has another value of the label: it has gone for good."""
        kept = set(values)
        for metric, cells in self._cells.items():
            if label in metric.labels:
                place = metric.labels.index(label)
                for labels in [each for each in cells if each[place] not in kept]:
                    del cells[labels]

    def clear(self, metric: Metric) -> None:
        """Drops all values of a metric that are set before each collection."""
        self._cells[metric].clear()

    def text(self) -> str:
        """Everything in Prometheus' text format, version 0.0.4."""
        for refresh in self._refreshers:
            refresh()
        lines: list[str] = []
        for metric, cells in self._cells.items():
            common = (*self._labels, *(() if metric.is_shared else self._worker))
            lines += family_lines(metric.name, metric, common, metric.labels, cells)
        for alias in self._aliases:
            metric, renamed = alias.of, dict(alias.renamed)
            common = (*self._labels, *self._alias_labels, *(() if metric.is_shared else self._worker))
            names = [renamed.get(each, each) for each in metric.labels]
            cells = self._cells[metric]
            if alias.values is not None:
                cells = _translated(cells, alias.values)
            lines += family_lines(alias.name, metric, common, names, cells)
        lines += self._process_lines(self._worker)
        return "\n".join([*lines, ""])

    def _process_lines(self, common: Labels) -> list[str]:
        lines: list[str] = []
        for family in self._process.collect():
            for sample in family.samples:
                cell = Value()
                cell.value = sample.value
                metric = Metric(sample.name, Kind(family.type), family.documentation)
                lines += family_lines(sample.name, metric, common, (), {(): cell})
        return lines

    def _cell(self, metric: Metric, labels: tuple[str, ...]) -> Value | Histogram:
        cells = self._cells[metric]
        if labels not in cells:
            assert len(labels) == len(metric.labels), f"{metric.name} has the labels {metric.labels}"
            cells[labels] = _new(metric)
        return cells[labels]


def _new(metric: Metric) -> Value | Histogram:
    return Histogram(metric.bounds) if metric.kind is Kind.HISTOGRAM else Value()


def _translated(cells: _Cells, translate: Callable[[str], str]) -> _Cells:
    """Counters or gauges, added up where their labels become the same."""
    found: dict[tuple[str, ...], Value] = {}
    for labels, cell in cells.items():
        assert isinstance(cell, Value)
        found.setdefault(tuple(map(translate, labels)), Value()).value += cell.value
    return {**found}
