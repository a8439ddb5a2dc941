"""One trace from a client to the steps of its request, as a collector receives it, and the lines that name it."""

import asyncio
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
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
from quire.services.up import process
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc
from support.kserve import input_tensor
from support.otlp_receiver import OtlpReceiver, ReceivedSpan, otlp_receiver
from support.stacks import RunningStack, launch

NUM_BLOCKS = 96
# Of a request that still runs when services die.
NUM_TOKENS = 1200
FRONTEND, SCHEDULER, EXECUTOR = "quire-frontend", "quire-scheduler", "quire-executor"
# Below a span of the frontend's, in the order of their beginnings but for what overlaps.
PARTS = {
    (FRONTEND, "tokenize"),
    (SCHEDULER, "schedule"),
    (SCHEDULER, "queue"),
    (SCHEDULER, "prefill"),
    (SCHEDULER, "decode"),
    (EXECUTOR, "prefill chunk"),
    (EXECUTOR, "decode steps"),
}


@dataclass
class Traced:
    """A running stack whose services send their spans to a receiver."""

    stack: RunningStack
    receiver: OtlpReceiver
    lines: list[str]

    def whole(self, trace: TraceContext, num_answers: int = 1) -> list[ReceivedSpan]:
        """The spans of a call, once the last one of each service is there.

        A run of decode steps is over with a step of others, so that nobody has to wait.
        """
        post(self.stack.http, "/v1/completions", caller(99, flags="00"), prompt="def", max_tokens=1)
        return self.until(trace, {(FRONTEND, True): 1, (SCHEDULER, True): num_answers, "decode steps": num_answers})

    def until(self, caller: TraceContext, counts: dict[Any, int]) -> list[ReceivedSpan]:
        def are_there(spans: list[ReceivedSpan]) -> bool:
            own = [span for span in spans if span.trace_id == caller.trace_id]
            keys = [key for span in own for key in (span.name, (span.service, span.is_server))]
            return all(keys.count(key) >= count for key, count in counts.items())

        self.receiver.until(are_there)
        return self.receiver.of(caller.trace_id)


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch, otlp_receiver() as receiver:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setattr(process, "say", lines.append)
        settings: dict[str, Any] = {"otlp_endpoint": receiver.url, "log_format": "json", "log_level": "debug"}
        with launch(DEMO_MODEL, executor={"num_blocks": NUM_BLOCKS}, **settings) as stack:
            yield Traced(stack, receiver, lines)


def caller(number: int, flags: str = "01") -> TraceContext:
    return TraceContext(f"00-{number:032x}-{number:016x}-{flags}", f"n={number}")


def metadata(trace: TraceContext) -> tuple[tuple[str, str], ...]:
    return (("traceparent", trace.traceparent), ("tracestate", trace.tracestate))


def post(http: str, path: str, trace: TraceContext | None, **body: Any) -> tuple[int, str]:
    headers = {} if trace is None else dict(metadata(trace))
    try:
        with urlopen(Request(f"http://{http}{path}", json.dumps(body).encode(), headers), timeout=60) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def check(spans: list[ReceivedSpan], name: str, parent_id: str, parts: set[tuple[str, str]] = PARTS) -> ReceivedSpan:
    """All spans of a trace are the frontend's of this name and its parts, each below the right one."""
    first = spans[0]
    assert (first.service, first.name, first.parent_id, first.is_server) == (FRONTEND, name, parent_id, True)
    assert {(span.service, span.name) for span in spans[1:]} == parts
    by_id = {span.span_id: span for span in spans}
    for span in spans[1:]:
        parent = by_id[span.parent_id]
        below_first = span.service == FRONTEND or span.name == "schedule"
        assert parent is first if below_first else (parent.service, parent.name) == (SCHEDULER, "schedule")
        assert span.began >= parent.began
    return first


def test_a_streamed_completion_is_one_trace(traced: Traced) -> None:
    trace = caller(1)
    body = {"prompt": "def f(", "max_tokens": 20, "ignore_eos": True, "temperature": 0.5, "top_p": 0.9}
    status, text = post(traced.stack.http, "/v1/completions", trace, stream=True, **body)
    spans = traced.whole(trace)
    call = check(spans, "POST /v1/completions", trace.span_id)
    about, response_id = call.attributes, json.loads(text.split("\n", 1)[0].removeprefix("data: "))["id"]
    assert about == about | {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": status,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "quire",
        "gen_ai.request.model": "demo_model",
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.stream": True,
        "gen_ai.response.id": response_id,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.output_tokens": 20,
    }
    assert about["gen_ai.response.time_to_first_chunk"] > 0
    (scheduled,) = (span for span in spans if span.name == "schedule")
    assert scheduled.attributes["quire.prompt_tokens"] == about["gen_ai.usage.input_tokens"]
    assert (scheduled.attributes["quire.ending"], scheduled.attributes["quire.generated_tokens"]) == ("length", 20)
    # The parts of a request follow one another.
    queue, prefill, decode = (
        next(span for span in spans if span.name == name) for name in ("queue", "prefill", "decode")
    )
    assert queue.ended == prefill.began
    assert prefill.ended == decode.began
    assert prefill.attributes["quire.executor"] == traced.stack.stack.executors[0]
    chunks = [span for span in spans if span.name == "prefill chunk"]
    assert sum(span.attributes["quire.tokens"] for span in chunks) == prefill.attributes["quire.context_tokens"]
    assert prefill.attributes["quire.step"] == chunks[0].attributes["quire.step"]
    # The first token comes with the prefill; a step may run for nothing behind the last one.
    num_steps = sum(span.attributes["quire.num_steps"] for span in spans if span.name == "decode steps")
    assert num_steps in (19, 20, 21)
    assert not any(span.is_error for span in spans)


def test_a_chat_renders_its_prompt_and_may_have_several_answers(traced: Traced) -> None:
    trace = caller(2)
    messages = [{"role": "user", "content": "Hello"}]
    body = {
        "messages": messages,
        "chat_template": "{{ messages[0].content }}",
        "max_tokens": 8,
        "ignore_eos": True,
        "n": 2,
    }
    assert post(traced.stack.http, "/v1/chat/completions", trace, **body)[0] == 200
    spans = traced.whole(trace, num_answers=2)
    call = check(spans, "POST /v1/chat/completions", trace.span_id, PARTS | {(FRONTEND, "render")})
    about = call.attributes
    assert (about["gen_ai.operation.name"], about["gen_ai.request.choice.count"]) == ("chat", 2)
    assert about["gen_ai.response.finish_reasons"] == ["length", "length"]
    assert about["gen_ai.usage.output_tokens"] == 16


async def test_grpc_calls_are_traces(traced: Traced) -> None:
    """By metadata, by the message, and one of a call of many by itself."""
    whole, streamed, of_many = caller(3), caller(4), caller(5)
    sampling = pb.SamplingParams(max_tokens=6, ignore_eos=True)
    async with grpc.aio.insecure_channel(traced.stack.frontend) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await stub.Generate(pb.GenerateRequest(text="def", sampling=sampling), metadata=metadata(whole))
        own = pb.TraceContext(traceparent=of_many.traceparent)
        request = pb.GenerateRequest(request_id="many", text="def", sampling=sampling, trace=own)
        async for _ in stub.GenerateMany(iter([pb.GenerateManyRequest(number=1, generate=request)])):
            pass
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    async with AsyncClient(traced.stack.frontend) as client:
        async for _ in client.generate_stream("def", params, options=RequestOptions(trace=streamed)):
            pass
    for trace, method in ((whole, "Generate"), (streamed, "GenerateStream"), (of_many, "GenerateMany")):
        spans = await asyncio.to_thread(traced.whole, trace)
        about = check(spans, f"quire.v1.InferenceService/{method}", trace.span_id).attributes
        assert (about["rpc.response.status_code"], about["gen_ai.usage.output_tokens"]) == ("OK", 6)


async def test_calls_of_the_open_inference_protocol_are_traces(traced: Traced) -> None:
    trace = caller(6)
    inputs = [input_tensor("text_input", ["a"]), input_tensor("max_tokens", [6]), input_tensor("end_id", [3])]
    request = kserve_pb.ModelInferRequest(model_name="demo_model", inputs=inputs)
    async with grpc.aio.insecure_channel(traced.stack.frontend) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        async for response in stub.ModelStreamInfer(iter([request]), metadata=metadata(trace)):
            assert response.error_message == ""
    spans = await asyncio.to_thread(traced.whole, trace)
    check(spans, "inference.GRPCInferenceService/ModelStreamInfer", trace.span_id)


def test_a_trace_begins_where_none_is_given(traced: Traced) -> None:
    _, text = post(traced.stack.http, "/v1/completions", None, prompt="def", max_tokens=6, ignore_eos=True)
    response_id = json.loads(text)["id"]

    def named(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
        return [span for span in spans if span.attributes.get("gen_ai.response.id") == response_id]

    traced.receiver.until(lambda spans: bool(named(spans)))
    (call,) = named(traced.receiver.spans)
    trace = TraceContext(f"00-{call.trace_id}-{call.span_id}-01")
    check(traced.whole(trace), "POST /v1/completions", parent_id="")


def test_what_its_caller_does_not_record_is_not_sent(traced: Traced) -> None:
    not_sampled, behind = caller(7, flags="00"), caller(8)
    for trace in (not_sampled, behind):
        post(traced.stack.http, "/v1/completions", trace, prompt="def", max_tokens=6, ignore_eos=True)
    # Every service sends its spans in order.
    traced.whole(behind)
    assert traced.receiver.of(not_sampled.trace_id) == []


def test_refusals_are_spans_with_the_error_and_lines(traced: Traced) -> None:
    mistaken, too_long = caller(9), caller(10)
    post(traced.stack.http, "/v1/completions", mistaken, prompt="def", temperature=-1)
    # It fits the context, but never the pool.
    prompt = [5] * (NUM_BLOCKS * 16 + 1)
    assert post(traced.stack.http, "/v1/completions", too_long, prompt=prompt, max_tokens=1)[0] == 400
    for trace in (mistaken, too_long):
        spans = traced.until(trace, {(FRONTEND, True): 1})
        call = next(span for span in spans if span.is_server)
        assert (call.attributes["error.type"], call.attributes["http.response.status_code"]) == ("InvalidRequest", 400)
        assert not call.is_error
    refused = [json.loads(line) for line in traced.lines if too_long.trace_id in line]
    assert refused[0]["message"].startswith("POST /v1/completions: 400 in ")
    assert " KV blocks of 16 tokens" in refused[0]["message"]


@pytest.mark.chaos
async def test_a_request_that_outlives_services_stays_one_trace(traced: Traced) -> None:
    trace, stack = caller(11), traced.stack
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    async with AsyncClient(stack.frontend) as client:
        pieces = client.generate_stream([5, 6, 7], params, options=RequestOptions(trace=trace))
        num_tokens = len((await anext(pieces)).token_ids)
        for num_starts, service in enumerate(("scheduler", "executor"), 1):
            await asyncio.to_thread(traced.until, trace, {"prefill": num_starts})
            await asyncio.to_thread(stack.signal, service, signal.SIGKILL)
            await asyncio.to_thread(stack.start, service)
        async for piece in pieces:
            num_tokens += len(piece.token_ids)
    assert num_tokens == NUM_TOKENS
    # The killed executor's decode steps are lost with it, those of the first scheduler's and of the last are not.
    counts = {(FRONTEND, True): 1, (SCHEDULER, True): 1, "decode steps": 2}
    spans = await asyncio.to_thread(traced.until, trace, counts)
    # The first scheduler died with its span.
    known = {span.span_id for span in spans} | {trace.span_id}
    spans = [span for span in spans if span.parent_id in known]
    call = check(spans, "quire.v1.InferenceService/GenerateStream", trace.span_id)
    assert call.attributes["gen_ai.usage.output_tokens"] == NUM_TOKENS
    # The one behind it has seen the executor die.
    (scheduled,) = (span for span in spans if span.name == "schedule")
    assert scheduled.attributes["quire.is_resumed"]
    assert scheduled.events == ("executor lost",)
    names = [span.name for span in spans if span.service == SCHEDULER and span.parent_id == scheduled.span_id]
    assert names == ["queue", "prefill", "decode", "queue", "prefill", "decode"]


def test_every_line_is_an_object(traced: Traced) -> None:
    objects = [json.loads(line) for line in traced.lines if not line.startswith("quire: ")]
    assert {each["service"] for each in objects} == {"frontend", "scheduler", "executor"}
    assert all(each.keys() >= {"time", "level", "logger", "message"} for each in objects)
    assert all("request_id" in each for each in objects if each["logger"] == "quire.services.frontend.call")
