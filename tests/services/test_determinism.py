"""A seed fixes the tokens: alone, among others, and without any service."""

import asyncio

import pytest

from quire import LLM, SamplingParams
from quire.clients.async_client import AsyncClient
from quire.engine.demo_model import DEMO_MODEL
from support.stacks import RunningStack

PROMPT = "def mean(values):\n"
MAX_TOKENS = 40
# With the one among them fewer than the stack lets wait, as they may all arrive before any of them starts; a quarter is
# kept for callers with keys once there were some.
NUM_OTHERS = 28


def sampled(seed: int) -> SamplingParams:
    return SamplingParams(
        temperature=0.8, top_p=0.95, top_k=50, min_p=0.01, seed=seed, max_tokens=MAX_TOKENS, ignore_eos=True
    )


async def alone(address: str, seed: int) -> tuple[int, ...]:
    async with AsyncClient(address) as client:
        return (await client.generate(PROMPT, sampled(seed))).token_ids


async def test_the_same_seed_gives_the_same_tokens_and_another_gives_others(stack: RunningStack) -> None:
    first = await alone(stack.frontend, 1)
    assert len(first) == MAX_TOKENS
    assert await alone(stack.frontend, 1) == first
    assert await alone(stack.frontend, 2) != first


async def test_a_batch_of_others_changes_nothing(stack: RunningStack) -> None:
    expected = await alone(stack.frontend, 3)
    async with AsyncClient(stack.frontend) as client:
        others = [client.generate(PROMPT + "    " * (i % 7), sampled(100 + i)) for i in range(NUM_OTHERS)]
        requests = [*others[::2], client.generate(PROMPT, sampled(3)), *others[1::2]]
        answers = await asyncio.gather(*requests)
    assert answers[len(others[::2])].token_ids == expected
    assert len({answer.token_ids for answer in answers}) > NUM_OTHERS // 2


@pytest.fixture(scope="module")
def in_process_tokens() -> list[tuple[int, ...]]:
    """What the engine makes without services for the seeds below."""
    with LLM(model=str(DEMO_MODEL), dtype="float32", device="cpu") as llm:
        return [llm.generate([PROMPT], sampled(seed))[0].token_ids for seed in (1, 2, 3)]


async def test_the_engine_in_one_process_gives_the_same_tokens(
    stack: RunningStack, in_process_tokens: list[tuple[int, ...]]
) -> None:
    assert [await alone(stack.frontend, seed) for seed in (1, 2, 3)] == in_process_tokens


async def test_a_request_without_a_seed_is_not_always_the_same(stack: RunningStack) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=MAX_TOKENS, ignore_eos=True)
    async with AsyncClient(stack.frontend) as client:
        answers = await asyncio.gather(*(client.generate(PROMPT, params) for _ in range(4)))
    assert len({answer.token_ids for answer in answers}) > 1
