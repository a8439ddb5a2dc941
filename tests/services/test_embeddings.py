"""Embeddings of every kind and over every API, against the hidden states that `transformers` computes."""

import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
import torch
from numpy.typing import NDArray

from quire import LLM
from quire.clients.async_client import AsyncClient
from quire.clients.client import Client
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.pooling import Pooling
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.demo_model import DEMO_MODEL
from support.models import load_reference
from support.prompts import random_prompts
from support.stacks import RunningStack

KINDS = [Pooling.MEAN, Pooling.LAST, Pooling.CLS]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [*random_prompts(4, 70, 2048, seed=12), [7]]


@pytest.fixture(scope="module")
def states(prompts: list[list[int]]) -> list[NDArray[np.float32]]:
    """Behind the last norm, [num_prompt, hidden_size] each."""
    model = load_reference(DEMO_MODEL).model
    with torch.inference_mode():
        return [model(torch.tensor([prompt])).last_hidden_state[0].float().numpy() for prompt in prompts]


def pooled(states: NDArray[np.float32], pooling: Pooling) -> Any:
    return {Pooling.MEAN: states.mean(0), Pooling.LAST: states[-1], Pooling.CLS: states[0]}[pooling]


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def check(found: Sequence[float], wanted: Any) -> None:
    np.testing.assert_allclose(np.array(found), wanted, atol=2e-4, rtol=1e-3)


@pytest.fixture
async def http(stack: RunningStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{stack.http}", timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def post(http: aiohttp.ClientSession, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    async with http.post(path, json=body) as response:
        return response.status, await response.json()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    chunked = SchedulerConfig(max_num_tokens=23)
    with LLM(dtype="float32", device="cpu", num_threads=1, num_blocks=64, scheduler=chunked) as llm:
        yield llm


@pytest.mark.parametrize("pooling", KINDS)
def test_chunked_prompts_in_one_process(
    llm: LLM, prompts: list[list[int]], states: list[NDArray[np.float32]], pooling: Pooling
) -> None:
    for normalize in (False, True):
        for found, each in zip(llm.embed(prompts, pooling, normalize=normalize), states, strict=True):
            wanted = pooled(each, pooling)
            check(found.values, unit(wanted) if normalize else wanted)


@pytest.mark.parametrize("pooling", KINDS)
async def test_over_grpc(
    stack: RunningStack, prompts: list[list[int]], states: list[NDArray[np.float32]], pooling: Pooling
) -> None:
    async with AsyncClient(stack.frontend, timeout=60) as client:
        for prompt, each in zip(prompts, states, strict=True):
            found = await client.embed(prompt, pooling, normalize=False)
            check(found.values, pooled(each, pooling))
            assert (found.usage.prompt_tokens, found.usage.generated_tokens) == (len(prompt), 0)
            # What lies in the cache has no states: the prompt is computed again.
            check((await client.embed(prompt, pooling, normalize=False)).values, pooled(each, pooling))
        with pytest.raises(InvalidRequest, match="token_ids"):
            await client.embed([], pooling)


def test_the_blocking_client(stack: RunningStack, prompts: list[list[int]], states: list[NDArray[np.float32]]) -> None:
    with Client(stack.frontend) as client:
        check(client.embed(prompts[0]).values, unit(states[0][-1]))


async def test_over_http(
    http: aiohttp.ClientSession, prompts: list[list[int]], states: list[NDArray[np.float32]]
) -> None:
    status, found = await post(http, "/v1/embeddings", input=prompts, pooling="mean")
    assert status == 200, found
    assert [each["index"] for each in found["data"]] == list(range(len(prompts)))
    for each, wanted in zip(found["data"], states, strict=True):
        check(each["embedding"], unit(wanted.mean(0)))
    num_prompt = sum(map(len, prompts))
    assert found["usage"] == {"prompt_tokens": num_prompt, "total_tokens": num_prompt}
    _, packed = await post(http, "/v1/embeddings", input=prompts[0], encoding_format="base64", normalize=False)
    vector = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    check(vector.tolist(), states[0][-1])


async def test_the_openai_package(stack: RunningStack) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://{stack.http}/v1", api_key="none", max_retries=0) as client:
        answer = await client.embeddings.create(model=(await client.models.list()).data[0].id, input=["one", "two"])
    vectors = [np.array(each.embedding) for each in answer.data]
    assert [len(vector) for vector in vectors] == [len(vectors[0])] * 2
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)
    assert answer.usage.total_tokens > 1


async def test_scores_of_pairs(http: aiohttp.ClientSession) -> None:
    texts = ["def mean(values):", "def median(values):", "import os"]
    _, found = await post(http, "/v1/embeddings", input=texts, pooling="mean")
    vectors = [np.array(each["embedding"]) for each in found["data"]]
    status, scores = await post(http, "/score", text_1=texts[0], text_2=texts, pooling="mean")
    assert status == 200, scores
    found_scores = [each["score"] for each in scores["data"]]
    assert found_scores == pytest.approx([float(vectors[0] @ each) for each in vectors], abs=1e-5)
    assert found_scores[0] == pytest.approx(1, abs=1e-5)
    _, pairs = await post(http, "/score", text_1=texts, text_2=texts[::-1], pooling="mean")
    assert pairs["data"][1]["score"] == pytest.approx(1, abs=1e-5)


async def test_embeddings_among_answers(stack: RunningStack, http: aiohttp.ClientSession) -> None:
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    async with AsyncClient(stack.frontend, timeout=60) as client:
        alone = await client.generate("import ", params)
        vector = await client.embed("def mean(values):")
        stream = client.generate_stream("import ", params)
        pieces = [await anext(stream)]
        assert (await client.embed("def mean(values):")).values == pytest.approx(vector.values, abs=1e-4)
        pieces += [piece async for piece in stream]
    assert "".join(piece.text for piece in pieces) == alone.text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": 3}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": ["a"] * 129}, "input"),
        ("/v1/embeddings", {"input": [[1], [99999999]]}, "input[1][0]"),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input": "a", "pooling": "max"}, "pooling"),
        ("/v1/embeddings", {"input": "a", "bogus": 1}, "bogus"),
        ("/v1/embeddings", {"input": "a " * 5000}, "input"),
        ("/score", {"text_1": "a"}, "text_2"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a"]}, "text_2"),
        ("/score", {"text_1": [], "text_2": []}, "text_2"),
    ],
)
async def test_refusals_name_the_field(
    http: aiohttp.ClientSession, path: str, body: dict[str, Any], param: str
) -> None:
    status, found = await post(http, path, **body)
    assert status == 400
    assert found["error"]["param"] == param
