"""The services' own timeline: one message each way per step, books before plans, two steps in flight, and requests."""

import asyncio
import json
from dataclasses import replace
from typing import Any
from urllib.request import Request, urlopen

import grpc
import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.trace_context import TraceContext
from quire.engine.demo_model import DEMO_MODEL
from quire.kserve import open_inference_pb2 as kserve_pb
from quire.kserve import open_inference_pb2_grpc
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc
from support.kserve import input_tensor
from support.stacks import launch

PARAMS = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True)
# Cancelled long before it ends.
LONG = replace(PARAMS, max_tokens=1400)

# Numbers of the traces that requests bring, each by another way.
TRACES = range(1, 7)


def trace(number: int) -> TraceContext:
    return TraceContext(f"00-{number:032x}-{number:016x}-01", f"n={number}")


def metadata(number: int) -> tuple[tuple[str, str], ...]:
    return (("traceparent", trace(number).traceparent), ("tracestate", trace(number).tracestate))


async def call_by_hand(address: str) -> None:
    """A trace in a call's metadata is that of all its requests, unless they bring one."""
    own = pb.TraceContext(traceparent=trace(3).traceparent, tracestate=trace(3).tracestate)
    sampling = pb.SamplingParams(max_tokens=3, temperature=0)
    first = pb.GenerateRequest(request_id="metadata", text="a", sampling=sampling)
    second = pb.GenerateRequest(request_id="of many", text="a", sampling=sampling, trace=own)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await stub.Generate(first, metadata=metadata(2))
        many = [pb.GenerateManyRequest(number=1, generate=second)]
        async for _ in stub.GenerateMany(iter(many), metadata=metadata(2)):
            pass


async def infer(address: str) -> None:
    """The Open Inference Protocol, whole and streamed."""
    inputs = [input_tensor("text_input", ["a"]), input_tensor("max_tokens", [3])]
    request = kserve_pb.ModelInferRequest(model_name="demo_model", inputs=inputs)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        await stub.ModelInfer(request, metadata=metadata(5))
        async for response in stub.ModelStreamInfer(iter([request]), metadata=metadata(6)):
            assert response.error_message == ""


def post(http: str) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 4}).encode()
    headers = dict(metadata(4))
    with urlopen(Request(f"http://{http}/v1/completions", body, headers), timeout=60) as response:
        assert response.status == 200


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("trace")

    async def load(address: str, http: str) -> None:
        async with AsyncClient(address) as client:
            await asyncio.gather(*(client.generate([5 + i, 6, 7], PARAMS) for i in range(6)))
            stream = client.generate_stream("a", LONG, request_id="field", options=RequestOptions(trace=trace(1)))
            await anext(stream)
            await stream.aclose()
        await call_by_hand(address)
        await infer(address)
        await asyncio.to_thread(post, http)

    with launch(DEMO_MODEL, executor={"num_blocks": 96}, trace_dir=folder) as running:
        asyncio.run(load(running.frontend, running.http))
    files = sorted(folder.glob("*.json"))
    assert [file.name.split("-")[0] for file in files] == ["executor", "scheduler"]
    return [event for file in files for event in json.loads(file.read_text() + "]")]


def ends(events: list[dict[str, Any]], name: str) -> dict[int, tuple[float, float]]:
    spans = [event for event in events if event["name"] == name]
    # Clocks count nanoseconds, events microseconds.
    found = {event["args"]["step"]: (event["ts"], round(event["ts"] + event["dur"], 3)) for event in spans}
    assert len(found) == len(spans), f"two {name} spans of one step"
    return found


def test_every_step_is_one_plan_and_one_result(events: list[dict[str, Any]]) -> None:
    executed, sent, updated = (ends(events, name) for name in ("execute", "send", "update"))
    assert executed.keys() == sent.keys() == updated.keys()
    # Six sequences of 120 tokens, of which the second may come when the first is over, and the one that is cancelled.
    assert 120 <= len(executed) <= 6 * 120 + 1400 + 200


def test_no_plan_leaves_before_the_ledger_has_it(events: list[dict[str, Any]]) -> None:
    committed, sent, executed = (ends(events, name) for name in ("commit", "send", "execute"))
    for step, (began, _) in sent.items():
        assert committed[step][1] <= began <= executed[step][0]


def test_the_next_plan_leaves_before_a_result_is_taken_in(events: list[dict[str, Any]]) -> None:
    """Two steps are in flight. Whether it also comes before a step of this tiny model is over is up to the machine."""
    updated, sent = ends(events, "update"), ends(events, "send")
    early = [sent[step][1] <= updated[step - 1][0] for step in sent if step - 1 in updated]
    assert sum(early) > 0.9 * len(early)


def test_a_request_is_shown_with_its_callers_trace(events: list[dict[str, Any]]) -> None:
    requests = {event["id"]: event["args"] for event in events if event["ph"] == "b"}
    by_trace = {args["traceparent"]: args for args in requests.values() if "traceparent" in args}
    assert len(requests) == 6 + len(TRACES)
    assert by_trace.keys() == {trace(number).traceparent for number in TRACES}
    for number, name in ((1, "field"), (2, "metadata"), (3, "of many")):
        assert by_trace[trace(number).traceparent]["request_id"] == name
    assert {args["tracestate"] for args in by_trace.values()} == {f"n={number}" for number in TRACES}


def test_a_request_begins_starts_and_ends_once(events: list[dict[str, Any]]) -> None:
    phases: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["name"] == "request":
            phases.setdefault(event["id"], []).append(event)
    for each in phases.values():
        assert [event["ph"] for event in each] == ["b", "n", "e"]
        assert each[0]["ts"] <= each[1]["ts"] <= each[2]["ts"]
    endings = [each[2]["args"]["ending"] for each in phases.values()]
    assert endings.count("cancelled") == 1
    assert endings.count("length") >= 6
    assert set(endings) <= {"cancelled", "length", "stop"}
