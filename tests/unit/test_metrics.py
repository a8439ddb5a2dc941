"""Metrics as Prometheus reads them: what is counted here is what its own library would have counted."""

import asyncio
import socket
from time import monotonic
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.parser import text_string_to_metric_families

from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import InvalidRequest, Overloaded, StartupError, UnknownModel
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.open_request import Finish, OpenRequest
from quire.engine.step import StepPlan, StepResult
from quire.services.common.metrics.cells import Histogram
from quire.services.common.metrics.meter import Meter
from quire.services.common.metrics.metric import PART_BOUNDS, Alias, Kind, Metric
from quire.services.common.metrics.outcome import outcome_of, refusal_of
from quire.services.common.metrics.serving import metrics_serving
from quire.services.executor import metrics as executor
from quire.services.frontend import metrics as frontend
from quire.services.frontend import vllm_metrics
from quire.services.frontend.meter import FrontendMeter
from quire.services.frontend.workers_metrics import joined
from quire.services.scheduler import metrics as scheduler
from quire.services.scheduler.step_meter import MOST_NOTED, StepMeter

COUNTED = Metric("counted_total", Kind.COUNTER, "Things.", ("kind",))
LEVEL = Metric("level_ratio", Kind.GAUGE, "How full.", is_shared=True)
TIMES = Metric("times_seconds", Kind.HISTOGRAM, "How long.", bounds=(0.1, 1.0))


def samples(text: str) -> dict[str, float]:
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {f"{each.name}{sorted(each.labels.items())}": each.value for each in found}


def meter(worker: str = "") -> Meter:
    aliases = [Alias("their:counted_total", COUNTED, (("kind", "sort"),))]
    return Meter(
        (COUNTED, LEVEL, TIMES),
        {"model_name": 'a"b\\c\nd'},
        worker=worker,
        aliases=aliases,
        alias_labels={"engine": "0"},
    )


def test_a_histogram_is_that_of_prometheus_client() -> None:
    registry = CollectorRegistry()
    theirs = TheirHistogram("times_seconds", "How long.", buckets=(0.1, 1.0), registry=registry)
    sizes = [0.0, 0.05, 0.1, 0.1000001, 1.0, 2.0, 100.0]
    own, at_once = Meter((TIMES,), {}), Meter((TIMES,), {})
    for size in sizes:
        theirs.observe(size)
        own.histogram(TIMES).observe(size)
    at_once.histogram(TIMES).observe_all(np.array(sizes))
    expected = {
        key: value for key, value in samples(generate_latest(registry).decode()).items() if "created" not in key
    }
    for text in (own.text(), at_once.text()):
        found = {key: value for key, value in samples(text).items() if key.startswith("times_seconds")}
        assert found == pytest.approx(expected)


def test_a_size_counts_several_times() -> None:
    one, many = Histogram(PART_BOUNDS), Histogram(PART_BOUNDS)
    many.observe(0.003, 5)
    for _ in range(5):
        one.observe(0.003)
    assert many.buckets == one.buckets
    assert many.sum == pytest.approx(one.sum)
    many.observe_all(np.empty(0))
    assert many.buckets == one.buckets


def test_labels_may_have_any_character_and_aliases_their_own_names() -> None:
    own = meter()
    own.value(COUNTED, "x").value += 2
    found = samples(own.text())
    assert found["""counted_total[('kind', 'x'), ('model_name', 'a"b\\\\c\\nd')]"""] == 2
    assert found["""their:counted_total[('engine', '0'), ('model_name', 'a"b\\\\c\\nd'), ('sort', 'x')]"""] == 2
    assert any(key.startswith("process_resident_memory_bytes") for key in found)


def test_what_is_gone_is_dropped() -> None:
    own = meter()
    own.value(COUNTED, "stays").value += 1
    own.value(COUNTED, "goes").value += 1
    own.retain("kind", {"stays"})
    assert [key for key in samples(own.text()) if key.startswith("counted_total")] == [
        """counted_total[('kind', 'stays'), ('model_name', 'a"b\\\\c\\nd')]"""
    ]


def test_workers_answer_as_one() -> None:
    first, second = meter("0"), meter("1")
    first.value(LEVEL).value = second.value(LEVEL).value = 0.5
    first.value(COUNTED, "x").value += 1
    second.value(COUNTED, "x").value += 2
    second.value(COUNTED, "y").value += 4
    text = joined(first.text(), [second.text()])
    families = [family.name for family in text_string_to_metric_families(text)]
    assert len(families) == len(set(families)), "the lines of a family stand together"
    found = samples(text)
    counts = {key: value for key, value in found.items() if key.startswith("counted_total")}
    assert sorted(counts.values()) == [1, 2, 4]
    assert [key for key in found if key.startswith("level_ratio") and "worker" in key] == []
    assert sum(key.startswith("process_cpu_seconds_total") for key in found) == 2
    # Whoever is asked.
    assert samples(joined(second.text(), [first.text()])).keys() == found.keys()


def test_steps_are_counted_when_they_are_asked_for_and_before_they_are_too_many() -> None:
    own = Meter(scheduler.METRICS, {})
    steps = StepMeter(own, "a")
    nothing, slots, chunks = np.empty(0, np.int32), np.arange(3, dtype=np.int32), np.array([5, 6], np.int32)
    decode = StepPlan(1, nothing, (), nothing, nothing, nothing, nothing, slots)
    prefill = StepPlan(2, nothing, (), nothing, nothing, slots[:2], chunks, nothing)
    plans = [decode] * 299 + [prefill]
    for plan in plans:
        # Milliseconds: 1 to schedule, nothing to commit, 2 to send; 4 to wait and 8 to update.
        steps.planned(plan, 0, 10**6, 10**6, 3 * 10**6)
        steps.updated(StepResult(plan.step, slots, slots, 7), 2, 0, 4 * 10**6, 12 * 10**6)
    assert own.value(scheduler.STEPS, "a").value == MOST_NOTED
    steps.flush()
    steps.flush()
    found = {key.partition("[")[0]: value for key, value in samples(own.text()).items()}
    assert found["quire_scheduler_steps_total"] == 300
    assert found["quire_scheduler_generation_tokens_total"] == 600
    assert found["quire_scheduler_context_tokens_total"] == 11
    assert found["quire_scheduler_step_tokens_sum"] == 299 * 3 + 11
    assert found["quire_scheduler_step_sequences_sum"] == 299 * 3 + 2
    assert found["quire_scheduler_ledger_commit_seconds_count"] == 0
    parts = [found[f"quire_scheduler_{part}_seconds_sum"] for part in ("schedule", "send", "wait", "update")]
    assert parts == pytest.approx([0.3, 0.6, 1.2, 2.4])


def test_tokens_that_come_together_share_the_time_since_those_before() -> None:
    own = Meter(frontend.METRICS, {"model_name": "m"})
    counting, nothing = FrontendMeter(own), np.empty(0, np.int32)
    requests = [OpenRequest(number, str(number), nothing, SamplingParams()) for number in range(4)]
    for request in requests:
        counting.begin(request, 0.0)
        request.generated.append(7)
        counting.start(request, 0.0)
        request.generated.append(7)
    counting.tell(requests, now := monotonic())
    before = samples(own.text())
    for request, num_new in zip(requests, (2, 1, 1, 0), strict=True):
        request.generated.extend([7] * num_new)
    # One that nobody asked for, such as a step of a beam search.
    requests.append(OpenRequest(9, "9", nothing, SamplingParams()))
    counting.tell(requests, now + 1)
    after = samples(own.text())
    name, model = "quire_frontend_inter_token_latency_seconds", "('model_name', 'm')"
    grown = {key: value - before[key] for key, value in after.items() if key.startswith(name)}
    assert grown[f"{name}_count[{model}]"] == 4
    assert grown[f"{name}_sum[{model}]"] == pytest.approx(3)
    assert grown[f"{name}_bucket[('le', '0.5'), {model}]"] == 2
    assert grown[f"{name}_bucket[('le', '1.0'), {model}]"] == 4


def test_what_is_computed_is_counted_by_tenant() -> None:
    own = Meter(frontend.METRICS, {})
    counting, prompt = FrontendMeter(own), np.ones(10, np.int32)
    for number, tenant in enumerate(("ann", "bob", "ann", "")):
        request = OpenRequest(number, str(number), prompt, SamplingParams(), RequestOptions(tenant=tenant))
        counting.begin(request, 0.0)
        request.start(cached_tokens=4)
        request.generated.extend([7] * 3)
        counting.start(request, 0.0)
        counting.end(request)
    name = "quire_frontend_tenant_tokens_total"
    assert {key: value for key, value in samples(own.text()).items() if key.startswith(name)} == {
        f"{name}[('kind', 'context'), ('tenant', 'ann')]": 12,
        f"{name}[('kind', 'generated'), ('tenant', 'ann')]": 6,
        f"{name}[('kind', 'context'), ('tenant', 'bob')]": 6,
        f"{name}[('kind', 'generated'), ('tenant', 'bob')]": 3,
    }


def test_endings_and_refusals_are_few_words() -> None:
    assert outcome_of(Finish(FinishReason.LENGTH)) == "length"
    assert outcome_of(None) == "cancelled"
    assert outcome_of(Overloaded("full", 1)) == "overloaded"
    assert refusal_of(InvalidRequest("n", 3, "must be 1")) == ("INVALID_ARGUMENT", "invalid_request")
    assert refusal_of(UnknownModel("a", "b")) == ("NOT_FOUND", "unknown_model")


def test_endings_have_vllms_names() -> None:
    counting = Meter([frontend.REQUESTS], {}, aliases=[each for each in vllm_metrics.ALIASES if each.values])
    for outcome in ("stop", "length", "aborted", "cancelled", "unavailable", "overloaded"):
        counting.value(frontend.REQUESTS, outcome).value += 1
    name = "vllm:request_success_total"
    found = {key: value for key, value in samples(counting.text()).items() if key.startswith(name)}
    assert found == {
        f"{name}[('finished_reason', '{reason}')]": count
        for reason, count in (("stop", 1), ("length", 1), ("abort", 2), ("error", 2))
    }


def test_names_are_as_prometheus_wants_them() -> None:
    every = [*frontend.METRICS, *scheduler.METRICS, *executor.METRICS]
    names = [metric.name for metric in every] + [alias.name for alias in vllm_metrics.ALIASES]
    assert len(names) == len(set(names))
    for metric in every:
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert (metric.bounds == ()) == (metric.kind is not Kind.HISTOGRAM), metric.name
        assert metric.help.endswith("."), metric.name
        assert "\n" not in metric.help
        assert "\\" not in metric.help


async def test_metrics_are_served_where_they_are_counted() -> None:
    own = meter()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartupError, match=f"--metrics-listen {place}: cannot listen there: "):
            async with metrics_serving(place, own):
                pass
    async with metrics_serving(place, own):
        own.value(COUNTED, "x").value += 1
        text = await asyncio.to_thread(lambda: urlopen(f"http://{place}/metrics").read().decode())
        assert samples(text) == samples(own.text()) | {
            key: value for key, value in samples(text).items() if key.startswith("process_")
        }
        with pytest.raises(HTTPError, match="404"):
            await asyncio.to_thread(urlopen, f"http://{place}/other")
    async with metrics_serving("", own):
        pass
