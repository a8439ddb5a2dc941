"""What services export, asked for again and again."""

from collections.abc import Iterable
from http.client import HTTPException
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from quire.services.common.metrics.metric import Kind, Metric

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(place: str) -> Samples:
    """The samples of one /metrics by name and labels; fails if the text is not as Prometheus reads it."""
    with urlopen(f"http://{place}/metrics", timeout=60) as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = response.read().decode()
    samples: Samples = {}
    names = set()
    for family in text_string_to_metric_families(text):
        assert family.name not in names, f"{family.name} comes twice"
        names.add(family.name)
        assert family.type != "unknown", family.name
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} comes twice"
            samples[key] = sample.value
    return samples


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of a name that have these labels."""
    return sum(value for (found, own), value in samples.items() if found == name and labels.items() <= set(own))


class Scrapes:
    """All scrapes of some places, and which metrics have moved since the first one.

    Args:
        places: "host:port" of each; one that does not answer is left out for now.

    Attributes:
        exported: names of all samples.
        grown, changed: of these, those of which a value has become larger than before, or another.
    """

    def __init__(self, places: Iterable[str]) -> None:
        self._before: dict[str, Samples | None] = dict.fromkeys(places)
        self.exported: set[str] = set()
        self.grown: set[str] = set()
        self.changed: set[str] = set()

    def take(self) -> None:
        """One more of each."""
        for place, before in self._before.items():
            try:
                samples = scrape(place)
            except (OSError, HTTPException):  # killed while it answered
                continue
            self.exported.update(name for name, _ in samples)
            for key, value in samples.items() if before is not None else ():
                if value > before.get(key, 0):
                    self.grown.add(key[0])
                if value != before.get(key, value):
                    self.changed.add(key[0])
            self._before[place] = samples

    def moved(self, metric: Metric) -> bool:
        """Whether it counted something, or a gauge had two values."""
        return _sample(metric) in (self.changed if metric.kind is Kind.GAUGE else self.grown)

    def is_exported(self, metric: Metric) -> bool:
        return _sample(metric) in self.exported


def _sample(metric: Metric) -> str:
    return f"{metric.name}_count" if metric.kind is Kind.HISTOGRAM else metric.name
