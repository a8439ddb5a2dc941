"""Many requests over one GenerateMany call: each is served as in a call of its own, and none by the others' leave."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.rpc import code_pb2

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion, FinishReason, join
from quire.engine.api.errors import InvalidRequest, Overloaded, QuireError, Unavailable
from quire.engine.api.sampling import SamplingParams
from quire.internal.v1 import scheduler_pb2, scheduler_pb2_grpc
from quire.protos.convert import generate_request
from quire.services.up.ports import LOOPBACK, free_port
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc
from support.stacks import RunningStack, another_frontend, start_frontend

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
# Takes most of the pool, so that one runs and others wait.
LONG = replace(GREEDY, max_tokens=1200)
KINDS = (
    GREEDY, replace(GREEDY, max_tokens=1), replace(GREEDY, temperature=0.9, seed=5), replace(GREEDY, stop=("e", "(")),
    replace(GREEDY, logprobs=2),
)  # fmt: skip


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(stack.frontend, timeout=60, multiplex=True) as connected:
        yield connected


async def answer(client: AsyncClient, prompt: str | list[int], params: SamplingParams, name: str = "") -> Completion:
    return join([piece async for piece in client.generate_stream(prompt, params, request_id=name)])


async def running(client: AsyncClient, watcher: AsyncClient, number: int) -> list[asyncio.Task[Completion]]:
    """So many that are open at the frontend, and stay open for a while."""
    tasks = [asyncio.create_task(answer(client, f"def f{index}(", LONG)) for index in range(number)]
    await until_open(watcher, number)
    return tasks


def many(number: int, prompt: str, params: SamplingParams = GREEDY) -> pb.GenerateManyRequest:
    return pb.GenerateManyRequest(number=number, generate=generate_request(prompt, params, ""))


async def converse(place: str, requests: Iterable[pb.GenerateManyRequest]) -> list[pb.GenerateManyResponse]:
    """Sends all, closes, and reads to the end."""
    async with grpc.aio.insecure_channel(place) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).GenerateMany(iter(requests), timeout=60)
        return [message async for message in call]


async def until_open(client: AsyncClient, number: int) -> None:
    while (await client.server()).num_requests != number:
        await asyncio.sleep(0.01)


async def test_each_is_answered_as_in_a_call_of_its_own(stack: RunningStack, client: AsyncClient) -> None:
    asked = [(f"def f{index}(", params, f"{index}/{kind}") for index in range(4) for kind, params in enumerate(KINDS)]
    together = await asyncio.gather(*(answer(client, *each) for each in asked))
    async with AsyncClient(stack.frontend, timeout=60) as other:
        alone = [await answer(other, *each) for each in asked]
    for found, wanted in zip(together, alone, strict=True):
        # Prompts may have been computed in other pieces.
        logprobs = [each.logprob for each in wanted.logprobs]
        assert [each.logprob for each in found.logprobs] == pytest.approx(logprobs, abs=1e-4)
        nothing = {"logprobs": (), "usage": None}
        assert replace(found, **nothing) == replace(wanted, **nothing)


async def num_steps(stack: RunningStack) -> int:
    """So many that brought their results before this returns."""
    async with grpc.aio.insecure_channel(stack.stack.schedulers[0]) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        statistics = await stub.GetStatistics(scheduler_pb2.GetStatisticsRequest())
    (executor,) = statistics.executors
    return executor.num_steps


async def test_what_a_step_brings_comes_in_one_message(stack: RunningStack) -> None:
    await stack.assert_settled()
    before = await num_steps(stack)
    numbers = range(1, 17)
    messages = await converse(stack.frontend, [many(number, f"def f{number}(") for number in numbers])
    await stack.assert_settled()
    parts = [part for message in messages for part in message.parts]
    for number in numbers:
        mine = [part.response for part in parts if part.number == number]
        assert sum(len(response.token_ids) for response in mine) == GREEDY.max_tokens
        assert [response.HasField("finish") for response in mine] == [False] * (len(mine) - 1) + [True]
    assert len(messages) <= await num_steps(stack) - before < len(numbers) * GREEDY.max_tokens


async def test_what_is_refused_harms_no_other(client: AsyncClient) -> None:
    wrong = [replace(GREEDY, top_p=7.0), replace(GREEDY, max_tokens=100_000)]
    right = (answer(client, "def f(", GREEDY) for _ in range(3))
    async with asyncio.timeout(60):
        *answers, first, second, third = await asyncio.gather(
            *right, *(answer(client, "def f(", params) for params in wrong), answer(client, [], GREEDY),
            return_exceptions=True,
        )  # fmt: skip
    assert [len(found.token_ids) for found in answers if isinstance(found, Completion)] == [GREEDY.max_tokens] * 3
    assert isinstance(first, InvalidRequest)
    assert str(first) == "sampling.top_p: must be above 0 and at most 1, got 7.0"
    assert (first.field, first.value) == ("sampling.top_p", "7.0")
    assert isinstance(second, InvalidRequest)
    assert isinstance(third, InvalidRequest)


async def test_a_full_frontend_refuses_with_a_hint(stack: RunningStack) -> None:
    async with (
        another_frontend(stack, max_requests=2) as place,
        AsyncClient(place, multiplex=True) as client,
        AsyncClient(place) as other,
    ):
        tasks = await running(client, other, 2)
        with pytest.raises(Overloaded, match="2 requests are open on this frontend") as caught:
            await answer(client, "def f(", GREEDY)
        assert caught.value.retry_after == 1.0
        for task in tasks:
            task.cancel()
        await until_open(other, 0)
        assert len((await answer(client, "def f(", GREEDY)).token_ids) == GREEDY.max_tokens


async def test_a_closed_stream_ends_alone(client: AsyncClient) -> None:
    closed, other = client.generate_stream("def f(", LONG), client.generate_stream("def g(", LONG, request_id="other")
    await anext(closed)
    waiting = asyncio.create_task(anext(other))
    await until_open(client, 2)
    await closed.aclose()
    await until_open(client, 1)
    assert (await waiting).token_ids
    assert await client.abort("other")
    *_, last = [piece async for piece in other]
    assert last.finish_reason is FinishReason.ABORTED


async def test_a_client_may_close_before_anything_was_sent(stack: RunningStack) -> None:
    async with AsyncClient(stack.frontend, multiplex=True) as leaving:
        task = asyncio.create_task(answer(leaving, "def f(", GREEDY))
        await asyncio.sleep(0)
    with pytest.raises(QuireError, match="the client was closed"):
        await task


async def test_a_request_that_is_too_long_harms_no_other(client: AsyncClient) -> None:
    with pytest.raises(QuireError, match="RESOURCE_EXHAUSTED: the request has 67108"):
        await answer(client, "x" * 64 * 1024 * 1024, GREEDY)
    assert len((await answer(client, "def f(", GREEDY)).token_ids) == GREEDY.max_tokens


async def test_a_cancelled_request_is_told_so(stack: RunningStack) -> None:
    """Also one that has not begun, and one that was never there."""
    cancel = [pb.GenerateManyRequest(number=number, cancel=Empty()) for number in (1, 2, 3)]
    messages = await converse(stack.frontend, [many(1, "def f(", LONG), many(2, "def g(", LONG), *cancel])
    failures = {part.number: part.failure for message in messages for part in message.parts if part.HasField("failure")}
    assert {number: failure.code for number, failure in failures.items()} == dict.fromkeys((1, 2), code_pb2.CANCELLED)
    assert not failures[1].HasField("retry_delay")


async def test_a_deadline_ends_a_request_on_the_server(stack: RunningStack, client: AsyncClient) -> None:
    """Also where nobody reads."""
    async with AsyncClient(stack.frontend, timeout=0.2, multiplex=True) as hurried:
        unread = hurried.generate_stream("def f(", LONG)

        async def read_late() -> None:
            await anext(unread)  # on a busy machine the deadline may come first
            await until_open(client, 0)
            async for _ in unread:
                pass

        with pytest.raises(QuireError, match=r"DEADLINE_EXCEEDED: not done within 0\.2 s"):
            await read_late()
        await until_open(client, 0)


async def test_a_client_that_closes_leaves_nothing_behind(stack: RunningStack) -> None:
    async with AsyncClient(stack.frontend, multiplex=True) as leaving:
        tasks = await running(leaving, leaving, 4)
    for task in tasks:
        with pytest.raises(QuireError, match="the client was closed"):
            await task
    await stack.assert_settled()


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([many(7, "a", LONG), many(7, "b", LONG)], "number: must not be that of a running request, got 7"),
        ([many(7, "a", LONG), pb.GenerateManyRequest(number=8)], "action: must be generate or cancel, got None"),
    ],
    ids=["a number twice", "no action"],
)
async def test_a_message_about_no_request_ends_the_call(
    stack: RunningStack, requests: list[pb.GenerateManyRequest], message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await converse(stack.frontend, requests)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, message)
    await stack.assert_settled()


async def test_bytes_that_are_no_message_end_the_call(stack: RunningStack) -> None:
    async with grpc.aio.insecure_channel(stack.frontend) as channel:
        call = channel.stream_stream("/quire.v1.InferenceService/GenerateMany")(iter([b"\x0a\xff"]), timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "request: must be a quire.v1.GenerateManyRequest message, got b'\\n\\xff'"


async def test_a_frontend_that_goes_and_comes_back(stack: RunningStack) -> None:
    place = f"{LOOPBACK}:{free_port()}"
    child = await start_frontend(stack, place)
    async with AsyncClient(place, multiplex=True, retries=False) as client:
        tasks = await running(client, client, 3)
        stack.call(child.stop(60))
        for task in tasks:
            with pytest.raises(Unavailable, match="this frontend is shutting down"):
                await task
        child = await start_frontend(stack, place)
        await client.ready(120)
        assert len((await answer(client, "def f(", GREEDY)).token_ids) == GREEDY.max_tokens
        tasks = await running(client, client, 3)
        child.kill()
        assert stack.call(child.wait()) == -signal.SIGKILL
        for task in tasks:
            with pytest.raises(Unavailable):
                await task
