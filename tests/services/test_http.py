"""The OpenAI API of a running frontend, and `quire bench` against both of its APIs."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from support.stacks import RunningStack

PROMPT = "def mean(values):\n"
SAMPLED: dict[str, Any] = {
    "prompt": PROMPT,
    "max_tokens": 40,
    "temperature": 0.8,
    "top_p": 0.95,
    "seed": 11,
    "ignore_eos": True,
    "presence_penalty": 0,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.25,
}


@pytest.fixture
async def http(stack: RunningStack) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{stack.http}", timeout=aiohttp.ClientTimeout(60)) as session:
        yield session


async def complete(http: aiohttp.ClientSession, **body: Any) -> dict[str, Any]:
    async with http.post("/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def stream(http: aiohttp.ClientSession, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream, whose form is taken literally."""
    async with http.post("/v1/completions", json={**body, "stream": True}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        text = await response.text()
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_both_apis_give_the_same_answer(stack: RunningStack, http: aiohttp.ClientSession) -> None:
    params = SamplingParams(
        temperature=0.8, top_p=0.95, seed=11, max_tokens=40, ignore_eos=True, frequency_penalty=0.5,
        repetition_penalty=1.25,
    )  # fmt: skip
    async with AsyncClient(stack.frontend, timeout=60) as client:
        answer = await client.generate(PROMPT, params)
    whole = await complete(http, **SAMPLED)
    events = await stream(http, **SAMPLED, stream_options={"include_usage": True})
    *chunks, last = events
    assert whole["choices"][0]["text"] == answer.text
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == answer.text
    assert len(chunks) > 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert last["choices"] == []
    assert answer.usage is not None
    for usage in (whole["usage"], last["usage"]):
        assert usage["prompt_tokens"] == answer.usage.prompt_tokens
        assert usage["completion_tokens"] == 40
        assert usage["total_tokens"] == answer.usage.prompt_tokens + 40


async def test_logprobs(stack: RunningStack, http: aiohttp.ClientSession) -> None:
    body = {**SAMPLED, "prompt": [PROMPT, "# Füße: 😀中"], "temperature": 2.0, "top_p": 1, "logprobs": 2}
    whole = (await complete(http, **body))["choices"]
    plain = (await complete(http, **{**body, "logprobs": None}))["choices"]
    assert [choice["text"] for choice in whole] == [choice["text"] for choice in plain]
    assert [choice["logprobs"] for choice in plain] == [None, None]
    streamed: list[dict[str, list[Any]]] = [{name: [] for name in whole[0]["logprobs"]} for _ in whole]
    for event in await stream(http, **body):
        (choice,) = event["choices"]
        for name, values in (choice["logprobs"] or {}).items():
            streamed[choice["index"]][name] += values
    for choice, parts in zip(whole, streamed, strict=True):
        found, text = choice["logprobs"], choice["text"]
        assert list(found) == ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
        assert [parts[name] for name in ("tokens", "text_offset")] == [found["tokens"], found["text_offset"]]
        assert parts["token_logprobs"] == pytest.approx(found["token_logprobs"], abs=1e-4)
        assert {len(values) for values in found.values()} == {40}
        for token, logprob, top, offset in zip(*found.values(), strict=True):
            assert 2 <= len(top) <= 3
            assert top[token] == logprob <= max(top.values()) <= 0
            assert token.startswith("bytes:") or text[offset:].startswith(token)


async def test_only_the_sampled_tokens_logprobs(http: aiohttp.ClientSession) -> None:
    (choice,) = (await complete(http, **SAMPLED, logprobs=0))["choices"]
    found = choice["logprobs"]
    pairs = zip(found["tokens"], found["token_logprobs"], strict=True)
    assert found["top_logprobs"] == [{token: logprob} for token, logprob in pairs]


async def test_several_prompts_of_both_kinds(http: aiohttp.ClientSession) -> None:
    async with http.post("/tokenize", json={"prompt": PROMPT}) as response:
        ids = (await response.json())["tokens"]
    options = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    alone = (await complete(http, prompt=ids, **options))["choices"][0]["text"]
    both = await complete(http, prompt=[PROMPT, ids], **options)
    assert [(choice["index"], choice["text"]) for choice in both["choices"]] == [(0, alone), (1, alone)]
    texts = ["", ""]
    for event in await stream(http, prompt=[PROMPT, ids], **options):
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == [alone, alone]


async def test_cached_tokens_are_told(http: aiohttp.ClientSession) -> None:
    prompt = list(range(600, 664))
    await complete(http, prompt=prompt, max_tokens=2)
    usage = (await complete(http, prompt=prompt, max_tokens=2))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 48


async def test_stop(http: aiohttp.ClientSession) -> None:
    options = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    text = (await complete(http, **options))["choices"][0]["text"]
    stop = text[10:13]
    choice = (await complete(http, **options, stop=stop))["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (text[: text.index(stop)], "stop", stop)


async def test_models_health_and_detokenize(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/models") as response:
        (card,) = (await response.json())["data"]
    async with http.get(f"/v1/models/{card['id']}") as response:
        assert (await response.json())["vocab_size"] > 0
    async with http.get("/health") as response:
        assert response.status == 200
    async with http.post("/tokenize", json={"prompt": PROMPT}) as response:
        tokens = await response.json()
    assert tokens["count"] == len(tokens["tokens"])
    async with http.post("/detokenize", json={"tokens": tokens["tokens"]}) as response:
        assert await response.json() == {"prompt": PROMPT}


async def test_special_tokens_are_tokenized_and_come_back(http: aiohttp.ClientSession) -> None:
    async with http.get("/tokenizer_info") as response:
        text = (await response.json())["bos_token"] + PROMPT
    async with http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}) as response:
        tokens = (await response.json())["tokens"]
    async with http.post("/detokenize", json={"tokens": tokens}) as response:
        assert await response.json() == {"prompt": text}


async def test_texts_of_any_length_are_tokenized_or_refused(http: aiohttp.ClientSession) -> None:
    async with http.post("/tokenize", json={"prompt": "word " * 20_000}) as response:
        tokens = await response.json()
    assert tokens["count"] == len(tokens["tokens"]) >= 20_000
    async with http.post("/detokenize", json={"tokens": tokens["tokens"]}) as response:
        assert await response.json() == {"prompt": "word " * 20_000}
    long = json.dumps({"prompt": "word " * 1_600_000}).encode()
    for path in ("/tokenize", "/v1/completions"):
        async with http.post(path, data=io.BytesIO(long), headers={"Content-Type": "application/json"}) as response:
            assert response.status == 400
            error = (await response.json())["error"]
        assert error["param"] == "prompt"
        assert "must be at most" in error["message"]
        assert "got '8000000 bytes" in error["message"] or "got 8000000" in error["message"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ("{", 400, "body"),
        ("[]", 400, "body"),
        ("{}", 400, "prompt"),
        ('{"prompt": 3}', 400, "prompt"),
        ('{"prompt": []}', 400, "prompt"),
        ('{"prompt": "a", "n": 0}', 400, "n"),
        ('{"prompt": "a", "n": 129}', 400, "n"),
        ('{"prompt": ["a", "b"], "n": 65}', 400, "n"),
        ('{"prompt": "a", "n": 3, "best_of": 2}', 400, "best_of"),
        ('{"prompt": "a", "best_of": 2, "stream": true}', 400, "best_of"),
        ('{"prompt": "a", "truncate_prompt_tokens": 0}', 400, "truncate_prompt_tokens"),
        ('{"prompt": "a", "suffix": "b"}', 400, "suffix"),
        ('{"prompt": "a", "max_tokens": -1}', 400, "max_tokens"),
        ('{"prompt": "a", "temperature": NaN}', 400, "temperature"),
        ('{"prompt": "a", "temperature": "1"}', 400, "temperature"),
        ('{"prompt": "a", "logprobs": 21}', 400, "logprobs"),
        ('{"prompt": "a", "logprobs": -1}', 400, "logprobs"),
        ('{"prompt": "a", "logprobs": true}', 400, "logprobs"),
        ('{"prompt": "a", "presence_penalty": 2.5}', 400, "presence_penalty"),
        ('{"prompt": "a", "frequency_penalty": -3}', 400, "frequency_penalty"),
        ('{"prompt": "a", "repetition_penalty": 0}', 400, "repetition_penalty"),
        ('{"prompt": "a", "stop": [1]}', 400, "stop"),
        ('{"prompt": "a", "seed": -1}', 400, "seed"),
        ('{"prompt": "a", "bogus": 1}', 400, "bogus"),
        ('{"prompt": "a", "add_special_tokens": 0}', 400, "add_special_tokens"),
        ('{"prompt": "a", "bogus": []}', 400, "bogus"),
        ('{"prompt": "a", "stream": true, "stream_options": {"bogus": false}}', 400, "stream_options.bogus"),
        ('{"prompt": "a", "stream_options": {"include_usage": true}}', 400, "stream_options"),
        ('{"prompt": [1, -5]}', 400, "prompt[1]"),
        ('{"prompt": [1, true]}', 400, "prompt"),
        ('{"prompt": [[1], [1.5]]}', 400, "prompt"),
        ('{"prompt": [[1], [99999999]]}', 400, "prompt[1][0]"),
        ('{"prompt": "\\ud800"}', 400, "body"),
        ('{"prompt": "a", "model": "other"}', 404, "model"),
    ],
)
async def test_refusals(http: aiohttp.ClientSession, body: str, status: int, param: str) -> None:
    async with http.post("/v1/completions", data=body) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {"prompt": "a", "bogus": False}), ("/detokenize", {"tokens": [1], "bogus": 0})],
)
async def test_unknown_fields_of_other_bodies(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
    async with http.post(path, json=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "bogus"


async def test_an_unknown_field_that_is_null_asks_for_nothing(http: aiohttp.ClientSession) -> None:
    options = {"include_usage": True, "bogus": None}
    events = await stream(http, **SAMPLED, bogus=None, stream_options=options)
    assert events[-1]["usage"]["completion_tokens"] == 40


async def test_a_body_that_is_too_large(stack: RunningStack) -> None:
    # Only announced: a client whose body is refused on the way may still have some to write when the test ends.
    reader, writer = await asyncio.open_connection(*stack.http.split(":"))
    writer.write(
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {8 * 2**20 + 1}\r\n\r\n".encode()
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


async def test_no_such_route(http: aiohttp.ClientSession) -> None:
    async with http.get("/nope") as response:
        assert response.status == 404
        assert (await response.json())["error"]["message"] == "GET /nope: not found"
    async with http.get("/v1/completions") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_goes_frees_its_blocks(
    stack: RunningStack, http: aiohttp.ClientSession, streamed: bool
) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1200, "temperature": 0, "ignore_eos": True, "stream": streamed}
    async with AsyncClient(stack.frontend, timeout=60) as client:
        asking = asyncio.create_task(_first_bytes(http, body))
        if streamed:  # it goes by itself, and may be gone before anybody has seen it
            assert (await asking).startswith(b"data: {")
        else:
            while (await client.server()).num_requests == 0:
                await asyncio.sleep(0.01)
            asking.cancel()
        async with asyncio.timeout(60):
            while (await client.server()).num_requests:
                await asyncio.sleep(0.01)
    await stack.assert_settled()


async def _first_bytes(http: aiohttp.ClientSession, body: dict[str, Any]) -> bytes:
    async with http.post("/v1/completions", json=body) as response:
        first = await response.content.readany()
        response.close()
        return first


@pytest.mark.parametrize("api", ["grpc", "http"])
def test_bench_serve(stack: RunningStack, tmp_path: Path, api: str) -> None:
    address = stack.frontend if api == "grpc" else stack.http
    flags = ["--num-requests=4", "--input-tokens=20", "--output-tokens=6", "--warmup=1", "--no-progress"]
    flags += [f"--target={api}://{address}", "--concurrency=1,2", "--num-turns=2", f"--json={tmp_path / 'a.json'}"]
    command = [sys.executable, "-m", "quire.services.cli", "bench", "serve", *flags, "--slo=e2e:60000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert [run["load"] for run in runs] == [{"concurrency": 1}, {"concurrency": 2}]
    for run in runs:
        found = run["summary"]
        assert (found["succeeded"], found["failed"], found["output_tokens"]) == (8, 0, 48)
        assert found["prompt_tokens"] == 4 * (20 + (46 if api == "grpc" else 40))
        assert found["goodput_per_s"] == pytest.approx(found["requests_per_s"])
