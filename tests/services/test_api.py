"""Every call of the API, against a frontend, a scheduler, an executor and a Redis that run."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion, FinishReason, join
from quire.engine.api.errors import Overloaded, QuireError
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.version import __version__
from quire.services.common.health import LIVE
from support.stacks import RunningStack, another_frontend, until_nothing_is_open

BUF = Path(sys.executable).parent / "buf"
PROMPT = "def mean(values):\n"
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=11, max_tokens=60, ignore_eos=True)
# Long enough to be caught running, short enough for the pool.
LONG = SamplingParams(temperature=0, max_tokens=1200, ignore_eos=True)
SERVICES = {
    "frontend": "quire.v1.InferenceService",
    "scheduler": "quire.internal.v1.SchedulerService",
    "executor": "quire.internal.v1.ExecutorService",
}


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.frontend, timeout=60) as connected:
        yield connected


@pytest.fixture
async def answer(client: AsyncClient) -> Completion:
    """What `SAMPLED` makes of `PROMPT`."""
    return await client.generate(PROMPT, SAMPLED)


def address(stack: RunningStack, service: str) -> str:
    places = {"frontend": stack.frontend, "scheduler": stack.stack.schedulers[0]}
    return places.get(service, stack.stack.executors[0])


async def test_a_whole_answer(client: AsyncClient, answer: Completion) -> None:
    assert len(answer.token_ids) == SAMPLED.max_tokens
    assert answer.text == await client.detokenize(answer.token_ids)
    assert (answer.finish_reason, answer.matched_stop) == (FinishReason.LENGTH, None)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(await client.tokenize(PROMPT))
    assert answer.usage.generated_tokens == len(answer.token_ids)
    assert answer.request_id


async def test_a_client_waits_until_the_server_is_ready(client: AsyncClient) -> None:
    await client.ready(10)


async def test_logprobs(client: AsyncClient, answer: Completion) -> None:
    asked = replace(SAMPLED, logprobs=3)
    whole = await client.generate(PROMPT, asked)
    assert whole.token_ids == answer.token_ids
    assert answer.logprobs == ()
    assert len(whole.logprobs) == len(whole.token_ids)
    for token_id, each in zip(whole.token_ids, whole.logprobs, strict=True):
        assert len(set(each.top_token_ids)) == len(each.top_logprobs) == 3
        assert list(each.top_logprobs) == sorted(each.top_logprobs, reverse=True)
        assert each.logprob <= each.top_logprobs[0] <= 0
        known = dict(zip(each.top_token_ids, each.top_logprobs, strict=True))
        assert each.logprob == known.get(token_id, each.logprob)
    pieces = [piece async for piece in client.generate_stream(PROMPT, asked)]
    assert len(pieces) > 1
    assert all(len(piece.logprobs) == len(piece.token_ids) for piece in pieces)
    # Prompt and context may have been computed in other pieces.
    streamed = join(pieces).logprobs
    assert [each.logprob for each in streamed] == pytest.approx([each.logprob for each in whole.logprobs], abs=1e-4)


async def test_a_stream_adds_up_to_the_whole_answer(client: AsyncClient, answer: Completion) -> None:
    pieces = [piece async for piece in client.generate_stream(PROMPT, SAMPLED, request_id="streamed")]
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == answer.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == answer.token_ids
    assert {piece.request_id for piece in pieces} == {"streamed"}
    *before, last = pieces
    assert all(piece.finish_reason is None and piece.usage is None for piece in before)
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert last.usage.generated_tokens == SAMPLED.max_tokens


async def test_tokenize_and_detokenize_are_inverse(client: AsyncClient) -> None:
    text = "def größe(x):\n    return '中文 😀'\n" * 200
    token_ids = await client.tokenize(text)
    assert await client.detokenize(token_ids) == text
    assert await client.tokenize("") == ()
    assert await client.detokenize([]) == ""


async def test_a_prompt_in_ids_is_the_same_prompt(client: AsyncClient, answer: Completion) -> None:
    by_ids = await client.generate(await client.tokenize(PROMPT), SAMPLED)
    assert (by_ids.text, by_ids.token_ids) == (answer.text, answer.token_ids)


async def test_abort_from_another_connection(stack: RunningStack, client: AsyncClient) -> None:
    running = client.generate_stream(PROMPT, LONG, request_id="to-abort")
    pieces = [await anext(running)]
    async with AsyncClient(stack.frontend) as other:
        assert await other.abort("to-abort")
        assert not await other.abort("to-abort")
        assert not await other.abort("never-was")
    pieces += [piece async for piece in running]
    assert pieces[-1].finish_reason is FinishReason.ABORTED
    num_tokens = sum(len(piece.token_ids) for piece in pieces)
    assert pieces[-1].usage is not None
    assert 0 < num_tokens == pieces[-1].usage.generated_tokens < LONG.max_tokens
    await stack.assert_settled()


async def test_abort_of_a_unary_call_returns_what_was_made(client: AsyncClient) -> None:
    running = asyncio.create_task(client.generate(PROMPT, LONG, request_id="unary"))
    while not (await client.server()).num_requests:
        await asyncio.sleep(0.01)
    # First come, first served: when this one has a token, the one before has too.
    await client.generate(PROMPT, SamplingParams(max_tokens=1))
    assert await client.abort("unary")
    aborted = await running
    assert aborted.finish_reason is FinishReason.ABORTED
    assert 0 < len(aborted.token_ids) < LONG.max_tokens
    assert aborted.text == await client.detokenize(aborted.token_ids)


async def test_a_stop_string_ends_the_text_before_it(
    stack: RunningStack, client: AsyncClient, answer: Completion
) -> None:
    # From the middle of a token into the next: the boundary may be anywhere.
    middle = len(await client.detokenize(answer.token_ids[:20]))
    stop = answer.text[middle - 2 : middle + 3]
    expected = answer.text[: answer.text.index(stop)]
    params = SamplingParams(
        temperature=0.8, top_p=0.95, seed=11, max_tokens=60, ignore_eos=True, stop=("never there", stop)
    )
    whole = await client.generate(PROMPT, params)
    assert (whole.text, whole.matched_stop, whole.finish_reason) == (expected, stop, FinishReason.STOP)
    assert whole.usage is not None
    assert whole.usage.generated_tokens == len(whole.token_ids) < SAMPLED.max_tokens
    assert whole.token_ids == answer.token_ids[: len(whole.token_ids)]
    pieces = [piece async for piece in client.generate_stream(PROMPT, params)]
    assert "".join(piece.text for piece in pieces) == expected
    assert pieces[-1].matched_stop == stop
    await stack.assert_settled()


async def test_a_stop_token_is_among_the_ids_but_not_in_the_text(client: AsyncClient, answer: Completion) -> None:
    token = answer.token_ids[30]
    end = answer.token_ids.index(token) + 1
    params = SamplingParams(temperature=0.8, top_p=0.95, seed=11, max_tokens=60, stop_token_ids=(token,))
    stopped = await client.generate(PROMPT, params)
    assert (stopped.finish_reason, stopped.matched_stop) == (FinishReason.STOP, token)
    assert stopped.token_ids == answer.token_ids[:end]
    assert stopped.text == await client.detokenize(answer.token_ids[: end - 1])


async def test_usage_counts_the_cached_prefix(client: AsyncClient) -> None:
    block_size = (await client.server()).block_size
    prompt = [100 + i for i in range(5 * block_size + 3)]
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    first, second = await client.generate(prompt, params), await client.generate(prompt, params)
    assert first.usage is not None
    assert second.usage is not None
    assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 5 * block_size)
    assert first.token_ids == second.token_ids


async def test_a_client_that_goes_leaves_nothing_behind(stack: RunningStack) -> None:
    async with AsyncExitStack() as clients:
        for _ in range(4):
            client = await clients.enter_async_context(AsyncClient(stack.frontend))
            await anext(client.generate_stream(PROMPT, SamplingParams(max_tokens=300, ignore_eos=True)))
    await stack.assert_settled()
    async with AsyncClient(stack.frontend) as client:
        await until_nothing_is_open(client)


async def test_a_cancelled_call_leaves_nothing_behind(stack: RunningStack, client: AsyncClient) -> None:
    running = asyncio.create_task(client.generate(PROMPT, LONG))
    waiting = asyncio.create_task(client.generate(PROMPT, LONG))
    while (await client.server()).num_requests < 2:
        await asyncio.sleep(0.01)
    for task in (running, waiting):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    await stack.assert_settled()
    await until_nothing_is_open(client)


async def test_a_deadline_ends_a_request(stack: RunningStack) -> None:
    async with AsyncClient(stack.frontend, timeout=0.2) as hurried:
        with pytest.raises(QuireError, match="DEADLINE_EXCEEDED"):
            await hurried.generate(PROMPT, LONG)
    await stack.assert_settled()


async def test_model_and_server_describe_themselves(client: AsyncClient) -> None:
    model, server = await client.model(), await client.server()
    assert model.name == "demo_model"
    assert len(model.fingerprint) == 64
    assert (model.vocab_size, model.max_model_len, list(model.eos_token_ids)) == (2048, 2048, [1])
    assert (server.version, server.num_executors, server.block_size) == (__version__, 1, 16)
    assert server.num_requests == 0
    assert server.num_blocks * server.block_size >= LONG.max_tokens


@pytest.mark.parametrize("service", SERVICES)
async def test_every_service_tells_its_health(stack: RunningStack, service: str) -> None:
    async with grpc.aio.insecure_channel(address(stack, service)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICES[service], LIVE):
            response = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert response.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service", SERVICES)
async def test_every_service_lists_what_it_serves(stack: RunningStack, service: str) -> None:
    async with grpc.aio.insecure_channel(address(stack, service)) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        async for reply in stub.ServerReflectionInfo(iter([question])):
            names = {entry.name for entry in reply.list_services_response.service}
    assert {SERVICES[service], "grpc.health.v1.Health"} <= names


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_a_client_without_protos_calls_by_reflection(
    stack: RunningStack, client: AsyncClient, version: str
) -> None:
    command = (BUF, "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--reflect-protocol", f"grpc-{version}")
    where = f"http://{stack.frontend}/quire.v1.InferenceService/Tokenize"
    process = await asyncio.create_subprocess_exec(
        *command, "--data", json.dumps({"text": PROMPT}), where, stdout=PIPE, stderr=PIPE
    )
    printed, problems = await process.communicate()
    assert process.returncode == 0, problems.decode()
    assert json.loads(printed)["tokenIds"] == list(await client.tokenize(PROMPT))


async def test_a_full_waiting_queue_refuses(stack: RunningStack, client: AsyncClient) -> None:
    """Each of these takes most of the pool, so that one runs, as many wait as may, and the rest is refused."""
    requests = [asyncio.create_task(client.generate(PROMPT, LONG)) for _ in range(50)]
    await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
    refusals = [error for task in requests if task.done() and (error := task.exception())]
    assert refusals
    for task in requests:
        task.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    for refusal in refusals:
        assert isinstance(refusal, Overloaded)
        # The scheduler's answer, or the frontend's where it has heard of it in time.
        assert re.search("40 requests wait, at most 40 may|the scheduler's queues are full", str(refusal))
        assert refusal.retry_after > 0
    await stack.assert_settled()


@pytest.fixture
async def narrow_frontend(stack: RunningStack) -> AsyncIterator[str]:
    """Takes two requests at once."""
    async with another_frontend(stack, max_requests=2) as place:
        yield place


async def test_messages_of_several_tokens(stack: RunningStack) -> None:
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    async with another_frontend(stack, stream_interval=4) as place, AsyncClient(place) as client:
        pieces = [piece async for piece in client.generate_stream(PROMPT, params)]
        whole = await client.generate(PROMPT, params)
    counts = [len(piece.token_ids) for piece in pieces]
    # About four in each but the first and the last: a busy machine may gather more, or cut one in two.
    assert len(counts) <= 15, counts
    assert "".join(piece.text for piece in pieces) == whole.text
    assert len(whole.token_ids) == sum(counts) == 30


async def test_a_full_frontend_refuses(narrow_frontend: str) -> None:
    async with AsyncClient(narrow_frontend) as client:
        running = [client.generate_stream(PROMPT, LONG) for _ in range(2)]
        first = asyncio.gather(*map(anext, running))
        while (await client.server()).num_requests < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="2 requests are open on this frontend") as caught:
            await client.generate(PROMPT, LONG)
        assert caught.value.retry_after > 0
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        for stream in running:
            await stream.aclose()
        while (await client.server()).num_requests:
            await asyncio.sleep(0.01)
        assert (await client.generate(PROMPT, SAMPLED)).finish_reason is FinishReason.LENGTH
