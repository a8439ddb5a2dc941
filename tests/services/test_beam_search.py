"""Beam search over HTTP and gRPC: the answers of transformers, refusals by name, and nothing left behind."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from transformers import PreTrainedModel

from quire.clients.async_client import AsyncClient
from quire.clients.client import Client
from quire.engine.api.beam_search import BeamSearchParams, EarlyStopping
from quire.engine.api.completion import Completion, FinishReason
from quire.engine.api.errors import InvalidRequest
from quire.engine.api.options import PromptParams, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.text.tokenizer import Tokenizer
from support.models import load_reference, reference_beams
from support.stacks import RunningStack, launch, until_nothing_is_open

PROMPT = "def mean(values):\n"
SEARCH: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 12, "use_beam_search": True, "n": 4, "ignore_eos": True}
ENDLESS = BeamSearchParams(4, max_tokens=1500, ignore_eos=True)


@pytest.fixture
async def http(stack: RunningStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{stack.http}", timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.frontend, timeout=120) as connected:
        yield connected


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO_MODEL)


@pytest.fixture(scope="module")
def reference() -> PreTrainedModel:
    return load_reference(DEMO_MODEL)


async def post(http: aiohttp.ClientSession, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    async with http.post(path, json=body) as response:
        assert response.status == status, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def complete(http: aiohttp.ClientSession, **body: Any) -> dict[str, Any]:
    return await post(http, "/v1/completions", body)


async def until_something_is_open(client: AsyncClient) -> None:
    async with asyncio.timeout(60):
        while not (await client.server()).num_requests:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("width", [2, 5])
async def test_answers_are_those_of_transformers(
    http: aiohttp.ClientSession, client: AsyncClient, tokenizer: Tokenizer, reference: PreTrainedModel, width: int
) -> None:
    ids = tokenizer.encode(PROMPT).tolist()
    ends = tokenizer.encode("\n", add_special_tokens=False).tolist()
    how: dict[str, Any] = {"length_penalty": 0.6, "early_stopping": "never"}
    expected = reference_beams(reference, ids, width, 24, eos_token_ids=ends, **how)
    body = {**SEARCH, "n": width, "max_tokens": 24, "stop_token_ids": ends, "return_token_ids": True, **how}
    choices = (await complete(http, **body))["choices"]
    assert [choice["index"] for choice in choices] == list(range(width))
    assert [tuple(choice["token_ids"]) for choice in choices] == [beam.token_ids for beam in expected]
    params = BeamSearchParams(width, max_tokens=24, ignore_eos=True, stop_token_ids=tuple(ends), **how)
    answers = await client.beam_search(PROMPT, params)
    assert [answer.token_ids for answer in answers] == [beam.token_ids for beam in expected]
    for answer, beam, choice in zip(answers, expected, choices, strict=True):
        assert answer.cumulative_logprob is not None
        assert answer.cumulative_logprob / len(answer.token_ids) ** 0.6 == pytest.approx(beam.score, abs=1e-4)
        assert (choice["text"], choice["stop_reason"]) == (answer.text, answer.matched_stop)


async def test_what_an_answer_has(http: aiohttp.ClientSession, tokenizer: Tokenizer) -> None:
    whole = await complete(http, **SEARCH, logprobs=2, return_token_ids=True)
    assert whole["usage"]["prompt_tokens"] == len(tokenizer.encode(PROMPT))
    assert whole["usage"]["completion_tokens"] == 4 * 12
    for choice in whole["choices"]:
        assert choice["text"] == tokenizer.decode(choice["token_ids"])
        assert len(choice["logprobs"]["token_logprobs"]) == 12
        assert choice["finish_reason"] == "length"
    texts = [choice["text"] for choice in whole["choices"]]
    scores = [sum(choice["logprobs"]["token_logprobs"]) for choice in whole["choices"]]
    assert scores == sorted(scores, reverse=True)
    two = await complete(http, **{**SEARCH, "n": 2, "best_of": 4}, temperature=0, seed=3, echo=True)
    assert [choice["text"] for choice in two["choices"]] == [PROMPT + text for text in texts[:2]]
    assert two["choices"][0]["logprobs"] is None


async def test_several_prompts(http: aiohttp.ClientSession) -> None:
    first = await complete(http, **SEARCH)
    second = await complete(http, **{**SEARCH, "prompt": "import "})
    both = await complete(http, **{**SEARCH, "prompt": [PROMPT, "import "]})
    texts = [choice["text"] for choice in both["choices"]]
    assert texts == [choice["text"] for each in (first, second) for choice in each["choices"]]
    for name in ("prompt_tokens", "completion_tokens"):
        assert both["usage"][name] == first["usage"][name] + second["usage"][name]


async def test_chat(http: aiohttp.ClientSession) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    body = {name: value for name, value in SEARCH.items() if name != "prompt"}
    messages = [{"role": "user", "content": PROMPT}]
    chat = await post(
        http, "/v1/chat/completions", {**body, "messages": messages, "chat_template": template, "logprobs": True}
    )
    plain = await complete(http, **SEARCH, add_special_tokens=False)
    found = [choice["message"]["content"] for choice in chat["choices"]]
    assert found == [choice["text"] for choice in plain["choices"]]
    assert [len(choice["logprobs"]["content"]) for choice in chat["choices"]] == [12] * 4
    assert chat["usage"]["completion_tokens"] == 48


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"stream": True}, "stream: must be false with use_beam_search, whose answers are known at its end only"),
        ({"n": 17}, "n: must be 1 to 16 with use_beam_search, got 17"),
        ({"best_of": 40}, "best_of: must be 1 to 16 with use_beam_search, got 40"),
        ({"temperature": 0.7}, "temperature: must be 0 or 1 with use_beam_search, which does not sample, got 0.7"),
        ({"top_p": 0.5}, "top_p: must be left out with use_beam_search, got 0.5"),
        ({"stop": "x"}, "stop: must be left out with use_beam_search, got ('x',)"),
        ({"min_tokens": 2}, "min_tokens: must be left out with use_beam_search, got 2"),
        ({"repetition_penalty": 1.2}, "repetition_penalty: must be left out with use_beam_search, got 1.2"),
        ({"logit_bias": {"5": 1}}, "logit_bias: must be left out with use_beam_search, got ((5, 1.0),)"),
        ({"prompt_logprobs": 1}, "prompt_logprobs: must be left out with use_beam_search, got 1"),
        ({"guided_regex": "a*"}, "structured_output: must be left out with use_beam_search, got "),
        ({"length_penalty": 11}, "length_penalty: must be -10 to 10, got 11"),
        ({"early_stopping": "soon"}, "early_stopping: "),
        ({"max_tokens": 0}, "max_tokens: must be at least 1 in a beam search, got 0"),
        ({"use_beam_search": False, "length_penalty": 2}, "length_penalty: must be left out unless use_beam_search is"),
        ({"use_beam_search": None, "early_stopping": True}, "early_stopping: must be left out unless use_beam_search"),
        ({"prompt": [PROMPT] * 33}, "prompt: must be at most 32 with 4 beams of each, got 33"),
        ({"prompt": [PROMPT, [5000]]}, "prompt[1]"),
    ],
)
async def test_what_does_not_go_with_it_is_refused(
    http: aiohttp.ClientSession, body: dict[str, Any], message: str
) -> None:
    error = (await post(http, "/v1/completions", {**SEARCH, **body}, status=400))["error"]
    assert error["message"].startswith(message)


async def test_what_asks_for_nothing_goes_with_it(http: aiohttp.ClientSession) -> None:
    off = {"top_k": -1, "min_tokens": 0, "stop": "", "top_p": 1, "length_penalty": 1.0, "early_stopping": False}
    expected = await complete(http, **SEARCH)
    found = await complete(http, **SEARCH, **off, temperature=1, include_stop_str_in_output=True, stream=False)
    assert found["choices"] == expected["choices"]
    sampled = {**SEARCH, "use_beam_search": False, "seed": 1}
    assert len((await complete(http, **sampled, length_penalty=1, early_stopping=False))["choices"]) == 4


async def test_a_client_that_leaves_ends_its_search(http: aiohttp.ClientSession, client: AsyncClient) -> None:
    await until_nothing_is_open(client)
    asking = asyncio.create_task(complete(http, **{**SEARCH, "max_tokens": 1500}))
    await until_something_is_open(client)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until_nothing_is_open(client)
    asking = asyncio.create_task(client.beam_search(PROMPT, ENDLESS))  # type: ignore[arg-type]
    await until_something_is_open(client)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until_nothing_is_open(client)


async def test_abort_and_deadline(client: AsyncClient) -> None:
    asking = asyncio.create_task(client.beam_search(PROMPT, ENDLESS, request_id="search"))
    async with asyncio.timeout(60):
        while not await client.abort("search"):
            await asyncio.sleep(0.01)
    late = client.beam_search(PROMPT, ENDLESS, options=RequestOptions(deadline_ms=50))
    for answers in (await asking, await late):
        assert answers
        assert {answer.finish_reason for answer in answers} == {FinishReason.ABORTED}
        assert all(len(answer.token_ids) < 1500 for answer in answers)
        assert [answer.index for answer in answers] == list(range(len(answers)))
    assert (await asking)[0].request_id == "search"
    await until_nothing_is_open(client)


async def test_a_name_is_that_of_one_running_request(client: AsyncClient) -> None:
    await until_nothing_is_open(client)
    asking = asyncio.create_task(client.beam_search(PROMPT, ENDLESS, request_id="twice"))
    await until_something_is_open(client)
    for again in (client.beam_search, client.generate):
        with pytest.raises(InvalidRequest, match="request_id: must not be that of a running request"):
            await again(PROMPT, request_id="twice")  # type: ignore[operator]
    assert await client.abort("twice")
    await asking


async def test_over_grpc(stack: RunningStack, client: AsyncClient, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(PROMPT).tolist()
    params = BeamSearchParams(3, max_tokens=6, logprobs=1, early_stopping=EarlyStopping.FULL, ignore_eos=True)
    expected = await client.beam_search(ids, params)
    assert [len(answer.logprobs) for answer in expected] == [6] * 3

    def blocking() -> list[Completion]:
        with Client(stack.frontend, timeout=60) as connected:
            return connected.beam_search(
                [1, 2, *ids], params, options=RequestOptions(prompt=PromptParams(True, len(ids)))
            )

    found = await asyncio.to_thread(blocking)
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    assert [answer.cumulative_logprob for answer in found] == [answer.cumulative_logprob for answer in expected]
    for refused, message in (
        (BeamSearchParams(17), "sampling.beam_width: must be 1 to 16, got 17"),
        (BeamSearchParams(length_penalty=-11), "sampling.length_penalty: must be -10 to 10, got -11"),
        (BeamSearchParams(max_tokens=5000), "sampling.max_tokens: must be at most "),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await client.beam_search(ids, refused)
        assert str(caught.value).startswith(message)


async def test_the_cumulative_logprob_of_a_sampled_answer(client: AsyncClient) -> None:
    params = SamplingParams(seed=1, max_tokens=6, logprobs=0, ignore_eos=True)
    answer = await client.generate(PROMPT, params)
    assert answer.cumulative_logprob == pytest.approx(sum(each.logprob for each in answer.logprobs))
    pieces = [piece async for piece in client.generate_stream(PROMPT, params)]
    assert [piece.cumulative_logprob for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].cumulative_logprob == pytest.approx(answer.cumulative_logprob)
    assert (await client.generate(PROMPT, SamplingParams(max_tokens=2))).cumulative_logprob is None


@pytest.fixture(scope="module")
def own_stack() -> Iterator[RunningStack]:
    with launch(DEMO_MODEL, executor={"num_blocks": 256}, drain_seconds=120) as running:
        yield running


@pytest.mark.parametrize("service", ["scheduler", pytest.param("executor", marks=pytest.mark.long)])
async def test_a_killed_service_comes_back(own_stack: RunningStack, service: str) -> None:
    params = BeamSearchParams(4, max_tokens=300, ignore_eos=True)
    async with AsyncClient(own_stack.frontend, timeout=200) as client:
        expected = await client.beam_search(PROMPT, params)
        asking = asyncio.create_task(client.beam_search(PROMPT, params))
        await until_something_is_open(client)
        await asyncio.to_thread(own_stack.signal, service, signal.SIGKILL)
        await asyncio.to_thread(own_stack.start, service)
        found = await asking
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    await own_stack.assert_settled()


async def test_a_frontend_that_is_told_to_stop_lets_a_search_end(own_stack: RunningStack) -> None:
    async with AsyncClient(own_stack.frontend, timeout=200) as client:
        asking = asyncio.create_task(client.beam_search(PROMPT, BeamSearchParams(4, max_tokens=200, ignore_eos=True)))
        await until_something_is_open(client)
        assert await asyncio.to_thread(own_stack.signal, "frontend", signal.SIGTERM) == 0
        assert [len(answer.token_ids) for answer in await asking] == [200] * 4
    await asyncio.to_thread(own_stack.start, "frontend")
    await own_stack.assert_settled()
