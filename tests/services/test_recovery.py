"""A service that is killed while requests run is missed by nobody: every text is the one without the fault."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import FinishReason
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.demo_model import DEMO_MODEL
from support.prompts import random_prompts
from support.stacks import RunningStack, launch

# More than the pool holds at once, so that a fault meets running and waiting requests alike.
PROMPTS = random_prompts(12, 200, 2048, seed=3)
NUM_BLOCKS = 160
GREEDY = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=5, max_tokens=300, ignore_eos=True)
PENALIZED = replace(GREEDY, presence_penalty=0.3, frequency_penalty=0.2, repetition_penalty=1.1)
STRUCTURED = replace(SAMPLED, structured_output=StructuredOutput(regex=r"([a-z]{1,9}[ ,.\n])*"))
KINDS = (SAMPLED, GREEDY, PENALIZED, replace(GREEDY, logprobs=2), STRUCTURED)
PARAMS = [KINDS[index % len(KINDS)] for index in range(len(PROMPTS))]

Tokens = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def own_stack() -> Iterator[RunningStack]:
    # The type that users have by default: bfloat16 where the processor has instructions for it.
    with launch(DEMO_MODEL, executor={"num_blocks": NUM_BLOCKS, "dtype": "auto"}) as running:
        yield running


@pytest.fixture
async def client(own_stack: RunningStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(own_stack.frontend) as connected:
        yield connected


async def answers(client: AsyncClient, middle: asyncio.Event) -> Tokens:
    """Streams all prompts at once; sets `middle` when all were accepted and some tokens of one have come."""
    begun, num_ended = asyncio.Event(), 0

    async def watch() -> None:
        await begun.wait()
        # One that comes behind a fault, when nothing can be computed, is refused rather than accepted.
        while (await client.server()).num_requests + num_ended < len(PROMPTS):
            await asyncio.sleep(0.01)
        middle.set()

    async def stream(index: int) -> tuple[int, ...]:
        nonlocal num_ended
        tokens: list[int] = []
        async for piece in client.generate_stream(PROMPTS[index], PARAMS[index]):
            tokens.extend(piece.token_ids)
            # None is repeated or missing: each is that of the likeliest token, which is the one that was taken.
            likeliest = [each.top_token_ids[0] for each in piece.logprobs]
            assert likeliest == ([] if PARAMS[index].logprobs is None else list(piece.token_ids))
            if len(tokens) > 20:
                begun.set()
        num_ended += 1
        assert piece.finish_reason is FinishReason.LENGTH
        return tuple(tokens)

    watching = asyncio.create_task(watch())
    found = await asyncio.gather(*map(stream, range(len(PROMPTS))))
    await watching
    return found


@pytest.fixture(scope="module")
def expected(own_stack: RunningStack) -> Tokens:
    """What comes without a fault."""

    async def undisturbed() -> Tokens:
        async with AsyncClient(own_stack.frontend) as client:
            return await answers(client, asyncio.Event())

    return asyncio.run(undisturbed())


@pytest.mark.parametrize("service", ["executor", "scheduler"])
async def test_a_killed_service_comes_back(
    own_stack: RunningStack, client: AsyncClient, expected: Tokens, service: str
) -> None:
    middle = asyncio.Event()
    running = asyncio.create_task(answers(client, middle))
    await middle.wait()
    code = await asyncio.to_thread(own_stack.signal, service, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not running.done()
    await asyncio.to_thread(own_stack.start, service)
    async with asyncio.timeout(200):
        assert await running == expected
    await own_stack.assert_settled()


async def test_an_executor_that_is_told_to_stop_is_no_worse_than_a_killed_one(
    own_stack: RunningStack, client: AsyncClient, expected: Tokens
) -> None:
    middle = asyncio.Event()
    running = asyncio.create_task(answers(client, middle))
    await middle.wait()
    assert await asyncio.to_thread(own_stack.signal, "executor", signal.SIGTERM) == 0
    await asyncio.to_thread(own_stack.start, "executor")
    async with asyncio.timeout(200):
        assert await running == expected
    assert own_stack.child("scheduler").is_running
    await own_stack.assert_settled()


async def test_an_emptied_redis_is_filled_again(own_stack: RunningStack, client: AsyncClient, expected: Tokens) -> None:
    middle = asyncio.Event()
    running = asyncio.create_task(answers(client, middle))
    await middle.wait()
    async with Redis.from_url(own_stack.stack.redis) as redis:
        await redis.flushall()
    assert not running.done()
    assert await running == expected
    await own_stack.assert_settled()


async def test_a_scheduler_that_starts_after_redis_was_emptied_leads(
    own_stack: RunningStack, client: AsyncClient, expected: Tokens
) -> None:
    """Redis has forgotten the epoch by then; the executor has not."""
    middle = asyncio.Event()
    running = asyncio.create_task(answers(client, middle))
    await middle.wait()
    async with Redis.from_url(own_stack.stack.redis) as redis:
        await redis.flushall()
    await asyncio.to_thread(own_stack.signal, "scheduler", signal.SIGKILL)
    await asyncio.to_thread(own_stack.start, "scheduler")
    async with asyncio.timeout(200):
        assert await running == expected
    assert own_stack.child("scheduler").is_running
    await own_stack.assert_settled()
