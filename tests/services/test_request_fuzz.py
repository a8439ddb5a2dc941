"""Requests that are wrong in any way: each is refused by the name of its field, or answered; nothing stays behind."""

import asyncio
import json
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import grpc
import pytest

from quire.engine.api.options import CacheParams, PromptParams, RequestOptions, Retention
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.api.thinking import ThinkingBudget
from quire.protos.convert import generate_request
from quire.services.common.channel import open_channel
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc
from support.mutation import mutated
from support.stacks import RunningStack

AT_ONCE = 16
FEW, MANY = 1_500, 25_000
NAMED = re.compile(r"^[a-z][a-z0-9_]*([.\[][^:]*)?: ")
EVERYTHING = SamplingParams(
    temperature=0.5, top_k=5, top_p=0.9, min_p=0.01, seed=7, max_tokens=3, stop=("x",), stop_token_ids=(5,),
    ignore_eos=True, presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.1, logit_bias={5: 1.0},
    allowed_token_ids=(5, 6, 7), bad_words=("a",), bad_words_ids=((5, 6), (7,)), min_tokens=1, no_repeat_ngram_size=2,
    typical_p=0.9, include_stop_str_in_output=True, skip_special_tokens=False, logprobs=2, prompt_logprobs=1,
    thinking=ThinkingBudget(1, (), (5,)),
)  # fmt: skip
OPTIONS = RequestOptions(
    priority=1,
    cache=CacheParams(salt="a", retention=(Retention(0, 8, 50, 100),)),
    prompt=PromptParams(True, 30),
    deadline_ms=60_000,
)
STRUCTURED = SamplingParams(seed=7, max_tokens=3, structured_output=StructuredOutput(regex="[a-z]{1,3}"))


def good_requests() -> list[pb.GenerateRequest | pb.EmbedRequest]:
    return [
        generate_request([5, 6, 7], EVERYTHING, "", OPTIONS, 2),
        generate_request("def", STRUCTURED, ""),
        pb.EmbedRequest(text="def", pooling=pb.POOLING_MEAN, priority=1, normalize=False),
    ]


async def in_turns(count: int, send: Callable[[], Awaitable[None]]) -> None:
    async def work() -> None:
        for _ in range(count // AT_ONCE):
            await send()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def fuzz_messages(stack: RunningStack, count: int) -> None:
    chance, refused, answered = random.Random(3), 0, 0
    allowed = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
    async with open_channel(stack.frontend) as channel:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)

        async def send() -> None:
            nonlocal refused, answered
            request: Any = mutated(chance.choice(good_requests()), chance)
            request.request_id = ""
            if isinstance(request, pb.GenerateRequest) and request.HasField("deadline_ms"):
                request.deadline_ms = min(request.deadline_ms, 5_000)
            call = stub.Embed if isinstance(request, pb.EmbedRequest) else stub.Generate
            sent = call(request, timeout=120)
            code, details = await sent.code(), await sent.details() or ""
            assert code in allowed, (code, details, request)
            answered += code is grpc.StatusCode.OK
            if code is grpc.StatusCode.INVALID_ARGUMENT:
                refused += 1
                assert NAMED.match(details), (details, request)

        await in_turns(count, send)
    assert min(refused, answered) > count // 20
    await stack.assert_settled()


BODY: dict[str, Any] = {
    "prompt": "def", "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.01, "typical_p": 0.9,
    "seed": 3, "stop": ["x"], "stop_token_ids": [5], "ignore_eos": True, "min_tokens": 1, "presence_penalty": 0.5,
    "frequency_penalty": 0.5, "repetition_penalty": 1.1, "no_repeat_ngram_size": 2, "bad_words": ["a"],
    "allowed_token_ids": [5, 6, 7], "logit_bias": {"5": 1.0}, "logprobs": 1, "prompt_logprobs": 1, "n": 2, "best_of": 2,
    "echo": True, "priority": 1, "cache_salt": "a", "truncate_prompt_tokens": 5, "add_special_tokens": True,
    "skip_special_tokens": True, "include_stop_str_in_output": True, "return_token_ids": True, "stream": False,
    "deadline_ms": 5000, "user": "me", "suffix": "", "stream_options": None,
}  # fmt: skip
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": BODY,
    "/v1/embeddings": {"input": ["a", "b"], "encoding_format": "float", "pooling": "mean", "normalize": True},
    "/score": {"text_1": "a", "text_2": ["b", "c"], "pooling": "last", "priority": 1},
    "/tokenize": {"prompt": "a", "add_special_tokens": True},
    "/detokenize": {"tokens": [5, 6]},
}
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 21, 1.5, 2**31, 2**64, -(2**40), 1e308, float("nan"), float("inf"), "", "a",
    "\ud800", "\x00", "x" * 2000, [], [1], [-1], [None], ["a"], ["", "b"], [[1, 2], [3]], [1, "a"], [2**40], {},
    {"a": 1}, {"5": "a"}, {"5": 1000}, {"include_usage": True}, {"type": "text"}, [True], [[]], [[[]]],
]  # fmt: skip


def wrong_body(chance: random.Random, body: dict[str, Any]) -> bytes:
    found = dict(body)
    for _ in range(chance.choice((1, 1, 2, 3))):
        name = chance.choice([*found, "bogus"]) if found else "bogus"
        if chance.random() < 0.15:
            found.pop(name, None)
        else:
            found[name] = chance.choice(VALUES)
    data = json.dumps(found).encode()
    if chance.random() < 0.05:
        place = chance.randrange(len(data))
        data = data[:place] + bytes([chance.randrange(256)]) + data[place + chance.randrange(3) :]
    return data


async def fuzz_bodies(stack: RunningStack, count: int) -> None:
    chance, refused, answered = random.Random(4), 0, 0
    async with aiohttp.ClientSession(f"http://{stack.http}", timeout=aiohttp.ClientTimeout(120)) as http:

        async def send() -> None:
            nonlocal refused, answered
            path = chance.choice(["/v1/completions", *ROUTES])
            data = wrong_body(chance, ROUTES[path])
            async with http.post(path, data=data) as response:
                text = await response.text()
                assert response.status in (200, 400, 404, 429), (response.status, path, data, text)
                answered += response.status == 200
                if response.status == 400:
                    refused += 1
                    error = json.loads(text)["error"]
                    assert error["param"], (path, data, text)
                    assert error["message"].startswith(f"{error['param']}: "), (path, data, text)

        await in_turns(count, send)
    assert min(refused, answered) > count // 20
    await stack.assert_settled()


async def test_messages(stack: RunningStack) -> None:
    await fuzz_messages(stack, FEW)


async def test_bodies(stack: RunningStack) -> None:
    await fuzz_bodies(stack, FEW)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_many_messages(stack: RunningStack) -> None:
    await fuzz_messages(stack, MANY)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_many_bodies(stack: RunningStack) -> None:
    await fuzz_bodies(stack, MANY)
