"""A spare executor: loaded and idle, until it goes on with what ran on one that is lost."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.internal.v1 import scheduler_pb2, scheduler_pb2_grpc
from quire.services.common.channel import open_channel
from support.stacks import RunningStack, launch

SECONDS = 200.0
GREEDY = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)
PROMPTS = [f"def f{index}(" for index in range(4)]


async def executors(running: RunningStack) -> list[scheduler_pb2.ExecutorStatistics]:
    """Those that are attached."""
    async with open_channel(running.stack.schedulers[0]) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        return list((await stub.GetStatistics(scheduler_pb2.GetStatisticsRequest())).executors)


async def num_steps(running: RunningStack, name: str) -> int:
    """That an executor has computed for this scheduler."""
    return next(each.num_steps for each in await executors(running) if each.name == name)


async def answers(client: AsyncClient) -> list[tuple[int, ...]]:
    found = await asyncio.gather(*(client.generate(prompt, GREEDY) for prompt in PROMPTS))
    return [tuple(answer.token_ids) for answer in found]


@pytest.fixture(scope="module")
def own_stack() -> Iterator[RunningStack]:
    with launch(DEMO_MODEL, spare_executors=1) as running:
        yield running


async def until_both_are_attached(running: RunningStack) -> None:
    while len(await executors(running)) < 2:
        await asyncio.sleep(0.01)


@pytest.mark.chaos
async def test_it_goes_on_with_what_ran_on_one_that_is_killed_and_is_idle_again_when_that_is_back(
    own_stack: RunningStack,
) -> None:
    (spare,) = own_stack.stack.spares
    async with asyncio.timeout(SECONDS), AsyncClient(own_stack.frontend) as client:
        await until_both_are_attached(own_stack)
        expected = await answers(client)
        assert (await num_steps(own_stack, spare), (await client.server()).num_executors) == (0, 1)
        under_way = asyncio.create_task(answers(client))
        while (await client.server()).num_requests < len(PROMPTS):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_stack.signal, "executor", signal.SIGKILL)
        # Nobody starts it again meanwhile.
        assert await under_way == expected
        taken = await num_steps(own_stack, spare)
        assert taken > 0
        await asyncio.to_thread(own_stack.start, "executor")
        await until_both_are_attached(own_stack)
        assert await answers(client) == expected
        assert await num_steps(own_stack, spare) == taken
