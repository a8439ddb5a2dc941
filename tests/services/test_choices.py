"""Several answers to one prompt, and what an answer of the completions API may have besides its text."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from quire import LLM
from quire.clients.async_client import AsyncClient
from quire.clients.client import Client
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.options import PromptParams, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.text.tokenizer import Tokenizer
from quire.internal.v1 import scheduler_pb2, scheduler_pb2_grpc
from quire.protos.convert import generate_request
from quire.services.common.channel import open_channel
from quire.v1 import inference_pb2, inference_pb2_grpc
from support.stacks import RunningStack

PROMPT = "def mean(values):\n"
SAMPLED: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0.9, "seed": 11, "ignore_eos": True}


@pytest.fixture
async def http(stack: RunningStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{stack.http}", timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO_MODEL)


async def complete(http: aiohttp.ClientSession, **body: Any) -> dict[str, Any]:
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def texts(http: aiohttp.ClientSession, **body: Any) -> list[str]:
    return [choice["text"] for choice in (await complete(http, **body))["choices"]]


async def streamed(http: aiohttp.ClientSession, **body: Any) -> list[dict[str, Any]]:
    async with http.post("/v1/completions", json={**body, "stream": True}) as response:
        assert response.status == 200, await response.text()
        *events, done, _ = (await response.text()).split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def statistics(stack: RunningStack) -> Sequence[scheduler_pb2.ExecutorStatistics]:
    async with open_channel(stack.stack.schedulers[0]) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        return (await stub.GetStatistics(scheduler_pb2.GetStatisticsRequest())).executors


async def test_choices_are_those_of_the_seeds_that_follow(http: aiohttp.ClientSession) -> None:
    alone = [(await texts(http, **{**SAMPLED, "seed": 11 + index}))[0] for index in range(3)]
    assert len(set(alone)) == 3
    whole = await complete(http, **SAMPLED, n=3)
    assert [(choice["index"], choice["text"]) for choice in whole["choices"]] == list(enumerate(alone))
    parts = ["", "", ""]
    events = await streamed(http, **SAMPLED, n=3, stream_options={"include_usage": True})
    for event in events[:-1]:
        parts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert parts == alone
    for usage in (whole["usage"], events[-1]["usage"]):
        assert usage["completion_tokens"] == 36
        assert usage["prompt_tokens"] == (await complete(http, **SAMPLED))["usage"]["prompt_tokens"]


async def test_the_usage_so_far_is_that_of_the_chunks_choice(http: aiohttp.ClientSession) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**SAMPLED, "n": 2, "return_token_ids": True, "stream_options": options}
    *events, last = await streamed(http, **body)
    generated = [0, 0]
    for event in events:
        (choice,), usage = event["choices"], event["usage"]
        generated[choice["index"]] += len(choice["token_ids"])
        assert usage["completion_tokens"] == generated[choice["index"]]
        assert usage["prompt_tokens"] == last["usage"]["prompt_tokens"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert generated == [12, 12]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 24)
    without = await streamed(http, **body | {"stream_options": {**options, "include_usage": None}})
    assert not any("usage" in event for event in without)


async def test_choices_of_several_prompts(http: aiohttp.ClientSession) -> None:
    both = await texts(http, **{**SAMPLED, "prompt": [PROMPT, "import "]}, n=2)
    assert both[:2] == await texts(http, **SAMPLED, n=2)
    assert both[2:] == await texts(http, **{**SAMPLED, "prompt": "import "}, n=2)


async def test_the_prompt_of_many_choices_is_computed_once(stack: RunningStack, http: aiohttp.ClientSession) -> None:
    prompt = [700 + index for index in range(300)]
    (before,) = await statistics(stack)
    usage = (await complete(http, prompt=prompt, max_tokens=4, n=8, seed=1))["usage"]
    (after,) = await statistics(stack)
    made = after.num_context_tokens - before.num_context_tokens
    found = after.num_reused_tokens + after.num_copied_tokens - before.num_reused_tokens - before.num_copied_tokens
    assert made == 8 * 300
    assert usage["prompt_tokens"] == 300
    assert made - found <= 300 + 7 * 16, "of each further choice at most the last block"


async def test_the_best_of_several(http: aiohttp.ClientSession) -> None:
    many = (await complete(http, **SAMPLED, n=6, logprobs=0))["choices"]
    means = {choice["text"]: sum(choice["logprobs"]["token_logprobs"]) / 12 for choice in many}
    best = sorted(means, key=lambda text: -means[text])
    found = await complete(http, **SAMPLED, best_of=6, n=2)
    assert [choice["text"] for choice in found["choices"]] == best[:2]
    assert [choice["index"] for choice in found["choices"]] == [0, 1]
    assert found["choices"][0]["logprobs"] is None
    assert found["usage"]["completion_tokens"] == 72, "all were made"


async def test_echo(http: aiohttp.ClientSession) -> None:
    (plain,) = await texts(http, **SAMPLED)
    assert await texts(http, **SAMPLED, echo=True) == [PROMPT + plain]
    events = await streamed(http, **SAMPLED, echo=True)
    assert "".join(event["choices"][0]["text"] for event in events) == PROMPT + plain
    assert events[0]["choices"][0]["text"].startswith(PROMPT)


async def test_token_ids(http: aiohttp.ClientSession, tokenizer: Tokenizer) -> None:
    (choice,) = (await complete(http, **SAMPLED, return_token_ids=True))["choices"]
    assert choice["prompt_token_ids"] == tokenizer.encode(PROMPT).tolist()
    assert tokenizer.decode(choice["token_ids"]) == choice["text"]
    events = [event["choices"][0] for event in await streamed(http, **SAMPLED, return_token_ids=True)]
    assert events[0]["prompt_token_ids"] == choice["prompt_token_ids"]
    assert not any("prompt_token_ids" in event for event in events[1:])
    assert [token for event in events for token in event["token_ids"]] == choice["token_ids"]


async def test_the_stop_string_may_stay(http: aiohttp.ClientSession) -> None:
    (text,) = await texts(http, **SAMPLED)
    stop = text[6:8]
    (choice,) = (await complete(http, **SAMPLED, stop=stop, include_stop_str_in_output=True))["choices"]
    assert (choice["text"], choice["stop_reason"]) == (text[: text.index(stop) + len(stop)], stop)


async def test_special_tokens_may_make_text(http: aiohttp.ClientSession, tokenizer: Tokenizer) -> None:
    special = next(iter(sorted(tokenizer.special_tokens)))
    token_id = tokenizer.backend.token_to_id(special)
    body = {**SAMPLED, "logit_bias": {token_id: 100}, "max_tokens": 3}
    assert await texts(http, **body) == [""]
    assert await texts(http, **body, skip_special_tokens=False) == [special * 3]


async def test_a_prompt_may_be_cut_from_the_left(stack: RunningStack, http: aiohttp.ClientSession) -> None:
    ids = list(range(600, 640))
    cut = await complete(http, **{**SAMPLED, "prompt": ids}, truncate_prompt_tokens=7, return_token_ids=True)
    assert cut["choices"][0]["prompt_token_ids"] == ids[-7:]
    assert cut["usage"]["prompt_tokens"] == 7
    long = await complete(http, **{**SAMPLED, "prompt": "word " * 5000}, truncate_prompt_tokens=9)
    assert long["usage"]["prompt_tokens"] == 9
    params = SamplingParams(temperature=0.9, seed=11, max_tokens=12, ignore_eos=True)
    async with AsyncClient(stack.frontend, timeout=60) as client:
        answer = await client.generate(ids, params, options=RequestOptions(prompt=PromptParams(True, 7)))
    assert answer.text == cut["choices"][0]["text"]


async def test_special_tokens_round_a_text_may_be_left_out(http: aiohttp.ClientSession, tokenizer: Tokenizer) -> None:
    (choice,) = (await complete(http, **SAMPLED, add_special_tokens=False, return_token_ids=True))["choices"]
    assert choice["prompt_token_ids"] == tokenizer.encode(PROMPT, add_special_tokens=False).tolist()


async def test_an_echo_with_logprobs_has_those_of_the_prompt(http: aiohttp.ClientSession, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROMPT).tolist()
    (choice,) = (await complete(http, **SAMPLED, echo=True, logprobs=2))["choices"]
    (plain,) = (await complete(http, **SAMPLED, logprobs=2))["choices"]
    found = choice["logprobs"]
    # A GPU computes other batches with other kernels.
    assert found["tokens"][len(ids) :] == plain["logprobs"]["tokens"]
    assert found["token_logprobs"][len(ids) :] == pytest.approx(plain["logprobs"]["token_logprobs"], abs=1e-4)
    for left, right in zip(found["top_logprobs"][len(ids) :], plain["logprobs"]["top_logprobs"], strict=True):
        assert left == pytest.approx(right, abs=1e-4)
    assert found["text_offset"][len(ids) :] == [len(PROMPT) + offset for offset in plain["logprobs"]["text_offset"]]
    assert (found["token_logprobs"][0], found["top_logprobs"][0]) == (None, None)
    assert all(logprob < 0 for logprob in found["token_logprobs"][1 : len(ids)])
    assert "".join(found["tokens"][: len(ids)]) == PROMPT
    parts: dict[str, list[Any]] = {name: [] for name in found}
    for event in await streamed(http, **SAMPLED, echo=True, logprobs=2):
        for name, values in (event["choices"][0]["logprobs"] or {}).items():
            parts[name] += values
    assert (parts["tokens"], parts["text_offset"]) == (found["tokens"], found["text_offset"])
    assert parts["token_logprobs"][1:] == pytest.approx(found["token_logprobs"][1:], abs=1e-4)


async def test_an_echo_keeps_the_special_tokens_that_its_prompt_has(
    http: aiohttp.ClientSession, tokenizer: Tokenizer
) -> None:
    text = f"<s>{PROMPT}</s><s>{PROMPT}"
    ids = tokenizer.encode(text).tolist()
    assert (ids[0], ids.count(0)) == (0, 2)
    for prompt in (text, ids):
        (choice,) = (await complete(http, **{**SAMPLED, "prompt": prompt, "echo": True, "logprobs": 0}))["choices"]
        assert choice["text"].startswith(text)
        found = choice["logprobs"]
        pairs = list(zip(found["tokens"], found["text_offset"], strict=True))
        assert "".join(found["tokens"][: len(ids)]) == text
        assert all(choice["text"].startswith(token, offset) for token, offset in pairs)
    cut = {**SAMPLED, "prompt": text, "echo": True, "truncate_prompt_tokens": 3}
    (choice,) = (await complete(http, **cut))["choices"]
    assert choice["text"].startswith(tokenizer.decode(ids[-3:]))


async def test_a_prompt_is_scored_alone(http: aiohttp.ClientSession) -> None:
    body = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 1}
    alone = await complete(http, **body)
    (choice,) = alone["choices"]
    assert (choice["text"], choice["finish_reason"], alone["usage"]["completion_tokens"]) == (PROMPT, "length", 0)
    longer = (await complete(http, **{**body, "max_tokens": 3}))["choices"][0]["logprobs"]
    count = len(choice["logprobs"]["tokens"])
    assert longer["tokens"][:count] == choice["logprobs"]["tokens"]
    assert longer["token_logprobs"][1:count] == pytest.approx(choice["logprobs"]["token_logprobs"][1:], abs=1e-4)


async def test_prompt_logprobs_as_vllm_has_them(http: aiohttp.ClientSession, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROMPT).tolist()
    (choice,) = (await complete(http, **SAMPLED, prompt_logprobs=2))["choices"]
    first, *others = choice["prompt_logprobs"]
    assert (first, len(others)) == (None, len(ids) - 1)
    for token_id, entry in zip(ids[1:], others, strict=True):
        assert 2 <= len(entry) <= 3
        own = entry[str(token_id)]
        assert own["logprob"] <= 0
        assert own["rank"] >= 1
        assert sorted(each["rank"] for each in entry.values())[:2] == [1, 2]
    assert choice["logprobs"] is None


PARAMS = SamplingParams(temperature=0.9, seed=11, max_tokens=12, ignore_eos=True)


async def test_choices_over_grpc_and_in_llm(stack: RunningStack, http: aiohttp.ClientSession) -> None:
    wanted = await texts(http, **SAMPLED, n=3)
    async with AsyncClient(stack.frontend, timeout=60) as client:
        answers = await client.generate_choices(PROMPT, 3, PARAMS, request_id="mine")
        assert [(each.index, each.text) for each in answers] == list(enumerate(wanted))
        assert [each.request_id for each in answers] == ["mine", "mine-1", "mine-2"]
    with Client(stack.frontend) as blocking:
        assert [each.text for each in blocking.generate_choices(PROMPT, 3, PARAMS)] == wanted
    with LLM(model=str(DEMO_MODEL), dtype="float32", device="cpu", num_threads=1) as llm:
        found = llm.generate([PROMPT, "import "], PARAMS, n=3)
    assert [each.text for each in found[:3]] == wanted
    assert [each.index for each in found] == [0, 1, 2, 0, 1, 2]


async def test_a_stream_of_choices_over_grpc(stack: RunningStack, http: aiohttp.ClientSession) -> None:
    parts: dict[int, str] = {0: "", 1: ""}
    ends = []
    message = generate_request(PROMPT, PARAMS, "", n=2)
    async with open_channel(stack.frontend) as channel:
        async for response in inference_pb2_grpc.InferenceServiceStub(channel).GenerateStream(message):
            parts[response.index] += response.text
            if response.HasField("finish"):
                ends.append(response.index)
    assert list(parts.values()) == await texts(http, **SAMPLED, n=2)
    assert sorted(ends) == [0, 1]


@pytest.mark.parametrize("n", [0, 129])
async def test_too_many_choices(stack: RunningStack, n: int) -> None:
    async with AsyncClient(stack.frontend, timeout=60) as client:
        with pytest.raises(InvalidRequest, match="n: must be 1 to 128"):
            await client.generate_choices(PROMPT, n, PARAMS)


async def test_a_call_of_many_takes_a_request_for_each_choice(stack: RunningStack) -> None:
    message = inference_pb2.GenerateManyRequest(number=1, generate=generate_request(PROMPT, PARAMS, "", n=2))
    async with open_channel(stack.frontend) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).GenerateMany(iter([message]))
        (part,) = [part async for response in call for part in response.parts]
    assert part.failure.message.startswith("n: must be 1 in GenerateMany")


LONG = SamplingParams(temperature=0, max_tokens=1200, ignore_eos=True)
# Nothing makes so many tokens in so short a time.
SOON = RequestOptions(deadline_ms=20)


async def test_a_deadline_ends_an_answer_with_what_it_has(stack: RunningStack, http: aiohttp.ClientSession) -> None:
    async with AsyncClient(stack.frontend, timeout=60) as client:
        answer = await client.generate(PROMPT, LONG, options=SOON)
    assert answer.finish_reason is FinishReason.ABORTED
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 1200, "ignore_eos": True, "deadline_ms": 20}
    (choice,) = (await complete(http, **body))["choices"]
    assert choice["finish_reason"] == "abort"
    with LLM(model=str(DEMO_MODEL), dtype="float32", device="cpu", num_threads=1) as llm:
        assert llm.generate(PROMPT, LONG, SOON)[0].finish_reason is FinishReason.ABORTED
        in_time = llm.generate(PROMPT, replace(LONG, max_tokens=2), RequestOptions(deadline_ms=60_000))[0]
        assert in_time.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("deadline", [0, -1, 2**31])
async def test_deadlines_out_of_range(http: aiohttp.ClientSession, deadline: int) -> None:
    async with http.post("/v1/completions", json={**SAMPLED, "deadline_ms": deadline}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "deadline_ms"
