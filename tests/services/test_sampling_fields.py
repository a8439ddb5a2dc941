"""What a request asks of sampling does the same over gRPC, over HTTP and in `LLM`, and does what it is for."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from quire import LLM, SamplingParams
from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion
from quire.engine.api.errors import InvalidRequest
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.text.tokenizer import Tokenizer
from support.stacks import RunningStack

PROMPT = "def mean(values):\n"
GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
DRAWN = SamplingParams(temperature=0.8, seed=7, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO_MODEL)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(model=str(DEMO_MODEL), dtype="float32", device="cpu", num_threads=1) as llm:
        yield llm


@pytest.fixture
async def http(stack: RunningStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{stack.http}", timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def over_grpc(stack: RunningStack, params: SamplingParams) -> Completion:
    async with AsyncClient(stack.frontend, timeout=60) as client:
        return await client.generate(PROMPT, params)


async def text_over_http(http: aiohttp.ClientSession, params: SamplingParams, **changes: Any) -> str:
    body = {"prompt": PROMPT, "temperature": params.temperature, "seed": params.seed, "max_tokens": params.max_tokens}
    async with http.post("/v1/completions", json=body | {"ignore_eos": params.ignore_eos} | changes) as response:
        assert response.status == 200, await response.text()
        text: str = (await response.json())["choices"][0]["text"]
        return text


@pytest.mark.parametrize("params", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize(
    "wish",
    [
        {"logit_bias": {5: 4.0, 300: -100}},
        {"allowed_token_ids": [5, 6, 7, 300, 301]},
        {"bad_words": ["return", "values"]},
        {"no_repeat_ngram_size": 2},
        {"typical_p": 0.3},
        {"min_tokens": 30, "ignore_eos": False},
    ],
    ids=lambda wish: next(iter(wish)),
)
async def test_every_entrance_gives_the_same(
    stack: RunningStack, http: aiohttp.ClientSession, llm: LLM, params: SamplingParams, wish: dict[str, Any]
) -> None:
    wanted = replace(params, **wish)
    answer = await over_grpc(stack, wanted)
    assert (await llm.generate_async(PROMPT, wanted)).token_ids == answer.token_ids
    body = wish | (
        {"logit_bias": {str(key): each for key, each in wish["logit_bias"].items()}} if "logit_bias" in wish else {}
    )
    assert await text_over_http(http, params, **body) == answer.text


async def test_bias_brings_and_forbids(stack: RunningStack) -> None:
    plain = (await over_grpc(stack, GREEDY)).token_ids
    without = (await over_grpc(stack, replace(GREEDY, logit_bias=dict.fromkeys(plain, -100)))).token_ids
    assert not set(without) & set(plain)
    assert set((await over_grpc(stack, replace(GREEDY, logit_bias={5: 100}))).token_ids) == {5}


async def test_only_allowed_tokens_come(stack: RunningStack) -> None:
    allowed = (5, 6, 7, 300, 301)
    answer = await over_grpc(stack, replace(DRAWN, temperature=2.0, allowed_token_ids=allowed))
    assert len(answer.token_ids) == 40
    assert set(answer.token_ids) <= set(allowed)


async def test_bad_words_do_not_come(stack: RunningStack) -> None:
    plain = (await over_grpc(stack, GREEDY)).text
    words = sorted({word for word in plain.split() if word.isalpha()}, key=len)[-3:]
    assert words
    text = (await over_grpc(stack, replace(GREEDY, bad_words=words))).text
    assert not any(word in text for word in words)


async def test_no_run_comes_twice(stack: RunningStack, tokenizer: Tokenizer) -> None:
    plain = (await over_grpc(stack, replace(GREEDY, max_tokens=120))).token_ids
    assert len(set(pairwise(plain))) < len(plain) - 1, "it repeats itself when it may"
    made = (await over_grpc(stack, replace(GREEDY, max_tokens=120, no_repeat_ngram_size=2))).token_ids
    known = [*tokenizer.encode(PROMPT).tolist(), *made]
    runs = list(pairwise(known))
    assert len(set(runs)) >= len(runs) - (len(known) - len(made)), "only the prompt may repeat itself"


async def test_nothing_ends_the_answer_before_min_tokens(stack: RunningStack) -> None:
    plain = await over_grpc(stack, GREEDY)
    stops = replace(GREEDY, stop_token_ids=plain.token_ids[:1], stop=plain.text[:2])
    assert len((await over_grpc(stack, stops)).token_ids) == 1
    later = await over_grpc(stack, replace(stops, min_tokens=12))
    assert len(later.token_ids) >= 12
    assert not set(later.token_ids[:11]) & set(plain.token_ids[:1])
    text = plain.text[4:6]
    assert len((await over_grpc(stack, replace(GREEDY, stop=text))).token_ids) < 12
    assert len((await over_grpc(stack, replace(GREEDY, stop=text, min_tokens=12))).token_ids) >= 12


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias[5]"),
        ({"logit_bias": {"5": "much"}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"allowed_token_ids": [1, 99999999]}, "allowed_token_ids[1]"),
        ({"bad_words": "one"}, "bad_words"),
        ({"bad_words": [""]}, "bad_words[0]"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"no_repeat_ngram_size": 65}, "no_repeat_ngram_size"),
        ({"typical_p": 0}, "typical_p"),
        ({"priority": 101}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"cache_salt": "x" * 129}, "cache_salt"),
    ],
)
async def test_refusals_name_the_field(http: aiohttp.ClientSession, body: dict[str, Any], field: str) -> None:
    async with http.post("/v1/completions", json={"prompt": PROMPT, **body}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == field


async def test_a_word_of_too_many_tokens_is_refused(stack: RunningStack) -> None:
    with pytest.raises(InvalidRequest, match=r"sampling.bad_words\[0\]: must be at most 64 tokens"):
        await over_grpc(stack, replace(GREEDY, bad_words=("ä中" * 40,)))


@pytest.mark.parametrize(
    "off",
    [
        {"top_k": -1}, {"stop": ""}, {"stop": []}, {"min_tokens": 0}, {"n": 1}, {"best_of": 1}, {"logit_bias": {}},
        {"bad_words": []}, {"allowed_token_ids": []}, {"temperature": None}, {"priority": 0}, {"cache_salt": ""},
        {"suffix": None}, {"echo": False}, {"logprobs": None}, {"stream_options": None}, {"user": "x"},
    ],
    ids=str,
)  # fmt: skip
async def test_off_is_off(http: aiohttp.ClientSession, off: dict[str, Any]) -> None:
    body = {"prompt": PROMPT, "max_tokens": 8, "seed": 3}
    texts = []
    for changes in ({}, off):
        async with http.post("/v1/completions", json=body | changes) as response:
            assert response.status == 200, await response.text()
            texts.append((await response.json())["choices"][0]["text"])
    if "temperature" not in off:
        assert texts[0] == texts[1]
