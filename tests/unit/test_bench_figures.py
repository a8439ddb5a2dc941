"""From records to figures, ratios and pages."""

import json
from pathlib import Path

import numpy as np
import pytest

from quire.clients.bench.compare import ratio_rows
from quire.clients.bench.cost import CostMeter
from quire.clients.bench.document import Run, read_runs, write_document
from quire.clients.bench.record import Record
from quire.clients.bench.report.page import write_report
from quire.clients.bench.slo import parse_objectives
from quire.clients.bench.summary import Summary, spread, summarize
from quire.clients.bench.target.sse import events
from quire.engine.api.errors import StartupError


async def summary(*slo: str) -> Summary:
    """Three requests in two seconds: a fast one, a slow one and a failure."""
    async with CostMeter() as cost:
        pass
    records = [
        Record(0.0, 0.5, (0.1, 0.2, 0.5), 5, 10, 4),
        Record(0.0, 2.0, (1.0, 1.5), 2, 20, 0),
        Record(0.2, 0.3, error="UNAVAILABLE"),
    ]
    return summarize(records, cost, parse_objectives(slo))


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(1).exponential(0.02, 997)
    found = spread(values)
    assert found is not None
    assert found.mean == pytest.approx(values.mean() * 1000)
    assert [found.p50, found.p90, found.p95, found.p99] == pytest.approx(np.percentile(values * 1000, [50, 90, 95, 99]))
    assert spread([]) is None


async def test_throughput_counts_what_succeeded() -> None:
    found = await summary()
    assert (found.succeeded, found.failed, found.errors) == (2, 1, {"UNAVAILABLE": 1})
    assert (found.requests_per_s, found.output_tokens_per_s, found.total_tokens_per_s) == (1.0, 3.5, 18.5)
    assert found.cached_tokens == 4
    assert found.goodput_per_s is None


async def test_latencies() -> None:
    found = await summary()
    assert found.ttft_ms is not None
    assert found.tpot_ms is not None
    assert found.itl_ms is not None
    assert found.ttft_ms.mean == pytest.approx(550)
    assert found.tpot_ms.mean == pytest.approx((100 + 500) / 2)
    assert found.itl_ms.mean == pytest.approx((100 + 300 + 500) / 3)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (["ttft:100.1"], 1),
        (["ttft:1000"], 2),
        (["itl:299"], 0),
        (["itl:301", "e2e:600"], 1),
        (["tpot:50"], 0),
        (["e2e:1"], 0),
    ],
)
async def test_goodput(slo: list[str], good: int) -> None:
    assert (await summary(*slo)).goodput_per_s == good / 2.0


@pytest.mark.parametrize("text", ["ttft", "ttft:x", "speed:3", "ttft:nan", "itl:-1"])
def test_an_objective_that_is_none(text: str) -> None:
    with pytest.raises(StartupError, match=rf"^--slo {text}: must be ttft\|tpot\|itl\|e2e:MILLISECONDS, above 0$"):
        parse_objectives([text])


async def test_ratios_of_two_results(tmp_path: Path) -> None:
    figures = (await summary()).to_json()
    write_document(tmp_path / "a.json", {}, "m", [Run({"concurrency": 4}, figures), Run({"concurrency": 8}, figures)])
    faster = figures | {"output_tokens_per_s": figures["output_tokens_per_s"] * 2}
    runs = read_runs(tmp_path / "a.json")
    head, row = ratio_rows([Run({"concurrency": 4}, faster)], runs)
    found = dict(zip(head, row, strict=True))
    assert (found["load"], found["out tok/s"], found["TTFT p50"]) == ("concurrency 4", "2.000", "1.000")


def test_a_file_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"format": 9, "runs": []}))
    with pytest.raises(StartupError, match="format must be 1, got 9"):
        read_runs(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps({"format": 1, "runs": [{"load": {}, "summary": {}}]}))
    with pytest.raises(StartupError, match="a run has no load"):
        read_runs(tmp_path / "x.json")


async def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    figures = (await summary("ttft:200")).to_json()
    runs = [Run({"concurrency": count}, figures) for count in (1, 4)]
    write_report(tmp_path / "report", {"target": "<b>"}, "m", runs)
    page = (tmp_path / "report/report.html").read_text()
    assert "<svg" in page
    assert "&lt;b&gt;" in page
    assert "src=" not in page
    assert (tmp_path / "report/curves.png").read_bytes().startswith(b"\x89PNG")


def test_events_that_come_in_fragments() -> None:
    stream = b'data: {"a": 1}\r\n\r\ndata: {"a": 2}\n\ndata: [DONE]\n\n'
    parts = [(float(index), stream[index : index + 1]) for index in range(len(stream))]
    found = list(events(parts))
    assert [event for _, event in found] == [{"a": 1}, {"a": 2}, None]
    assert [moment for moment, _ in found] == [17.0, 33.0, 47.0]
