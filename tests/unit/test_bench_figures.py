"""From records to figures, ratios and pages."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from quire.clients.bench.compare import comparison, doubts, ratio_rows
from quire.clients.bench.cost import CostMeter
from quire.clients.bench.document import Document, Run, make_document, read_document, write_document
from quire.clients.bench.record import Record
from quire.clients.bench.report.curves import draw
from quire.clients.bench.report.page import write_report
from quire.clients.bench.slo import parse_objectives
from quire.clients.bench.summary import Summary, spread, summarize
from quire.clients.sse import events
from quire.engine.api.errors import StartupError
from quire.engine.api.version import __version__


def document(runs: list[Run], **settings: object) -> Document:
    return make_document({"target": "host:1", **settings}, "m", runs, started=0.0)


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
    write_document(tmp_path / "a.json", document([Run({"concurrency": 4}, figures), Run({"concurrency": 8}, figures)]))
    faster = figures | {"output_tokens_per_s": figures["output_tokens_per_s"] * 2}
    runs = read_document(tmp_path / "a.json").runs
    head, row = ratio_rows([Run({"concurrency": 4}, faster)], runs)
    found = dict(zip(head, row, strict=True))
    assert (found["A / B"], found["out tok/s"], found["TTFT p50"]) == ("concurrency 4", "2.000", "1.000")


def test_what_is_compared_is_said() -> None:
    a, b = (document([Run({"concurrency": count}, {"requests_per_s": 2.0})], seed=count) for count in (4, 4))
    text = comparison(a, b, "one.json", "two.json").splitlines()
    assert text[0].startswith("A  one.json: m at host:1, 1970-01-01T00:00:00Z, quire ")
    assert text[1].startswith("B  two.json: m at host:1, ")
    assert text[3].startswith("A / B")
    assert text[4].split()[:3] == ["concurrency", "4", "1.000"]


def test_what_makes_a_comparison_worthless() -> None:
    run = [Run({"concurrency": 4}, {})]
    first = document(run, seed=5, input_tokens="10")
    assert doubts(first, document(run, seed=6, input_tokens="10")) == []
    (cache,) = doubts(first, document(run, seed=5, input_tokens="10"))
    assert cache.startswith("both sent the same prompts to host:1, so the later run may have found them in its cache")
    assert doubts(first, document(run, seed=5, input_tokens="10", target="other:1")) == []
    trace = {"trace": "t.jsonl", "trace_format": "jsonl"}
    (cache,) = doubts(document(run, seed=5, **trace), document(run, seed=6, **trace))
    assert cache.endswith("trace t.jsonl")
    assert doubts(first, document(run, seed=6, input_tokens="11")) == [
        "different workloads: input_tokens is '10' in A, '11' in B"
    ]
    assert doubts(first, document([Run({"rate": 2.0}, {})], seed=6, input_tokens="10")) == [
        "only in A: concurrency 4",
        "only in B: rate 2",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "Input should be"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b'{"format": 1}', "when: Field required"),
        ({"format": 9}, "format: Input should be 1, got 9"),
        ({"model": "\ud800"}, "Invalid JSON"),
        ({"settings": 3}, "settings: Input should be an object, got 3"),
        ({"runs": {}}, "runs: Input should be a valid"),
        ({"runs": [3]}, "runs.0: Input should be"),
        ({"runs": [{"load": {}, "summary": {}}]}, "runs.0.load: Dictionary should have at least 1 item"),
        ({"runs": [{"load": {"rate": []}, "summary": {}}]}, "runs.0.load.rate"),
        ({"runs": [{"load": {"rate": 2}, "summary": []}]}, "runs.0.summary: Input should be an object"),
    ],
)
def test_a_file_that_is_no_result(tmp_path: Path, content: bytes | dict[str, object], message: str) -> None:
    path = tmp_path / "x.json"
    write_document(path, document([]))
    path.write_bytes(
        content if isinstance(content, bytes) else json.dumps(json.loads(path.read_text()) | content).encode()
    )
    with pytest.raises(StartupError, match=f"not a result of quire bench: .*{message}"):
        read_document(path)


@pytest.mark.parametrize("figure", [None, "fast", [], {"p50": "fast"}, {"p50": None}, {"p50": 10**400}, 3])
def test_a_figure_that_is_none_has_no_ratio(figure: object) -> None:
    run = Run({"concurrency": 4}, {"ttft_ms": figure})
    _, row = ratio_rows([run], [run])
    assert row[1:] == ["-"] * 8


async def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    figures = (await summary("ttft:200")).to_json()
    runs = [Run({"concurrency": count}, figures) for count in (1, 4)]
    write_report(tmp_path / "report", document(runs, target="<b>", seed=77, input_tokens="12", output_tokens="34"))
    page = (tmp_path / "report/report.html").read_text()
    assert "<svg" in page
    for fact in ("&lt;b&gt;", "12 tokens in, 34 out", "77", "1970-01-01T00:00:00Z", __version__, platform.machine()):
        assert f">{fact}" in page or f" {fact}" in page
    assert "src=" not in page
    assert (tmp_path / "report/curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("speeds", [[5.0], [0.01, 100.0, 100.0], [3.0, 1000.0]])
async def test_labels_stay_inside_their_axes(speeds: list[float]) -> None:
    figures = (await summary()).to_json()
    runs = [Run({"rate": 99.5}, figures | {"output_tokens_per_s": speed}) for speed in speeds]
    figure = draw(runs)
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        assert [label.get_text() for label in axes.texts] == ["99.5"] * len(speeds)
        for label in axes.texts:
            box, outer = label.get_window_extent(), axes.get_window_extent()
            assert outer.x0 <= box.x0 < box.x1 <= outer.x1
            assert outer.y0 <= box.y0 < box.y1 <= outer.y1


def test_events_that_come_in_fragments() -> None:
    stream = b'data: {"a": 1}\r\n\r\ndata: {"a": 2}\n\ndata: [DONE]\n\n'
    parts = [(float(index), stream[index : index + 1]) for index in range(len(stream))]
    found = list(events(parts))
    assert [event for _, event in found] == [{"a": 1}, {"a": 2}, None]
    assert [moment for moment, _ in found] == [17.0, 33.0, 47.0]
