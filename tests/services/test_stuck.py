"""What is stuck is replaced, and nobody's text changes; a request that kills executors fails alone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.errors import QuireError
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from support import hostile_plugins
from support.stacks import RunningStack, launch, supervised

STALL_SECONDS = 3.0
# Far more than it takes: a busy machine must not fail a test.
SECONDS = 200.0
PROMPTS = [f"def f{index}(" for index in range(4)]
GREEDY = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
Tokens = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack that is supervised as `quire up` does, with a plug-in that hangs or kills."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hostile_plugins.install(tmp_path_factory.mktemp("site")).items():
            patch.setenv(name, value)
        executor = {"logits_processors": (hostile_plugins.NAME,)}
        with launch(DEMO_MODEL, executor=executor, stall_seconds=STALL_SECONDS) as running, supervised(running):
            yield running


@pytest.fixture
async def client(own_stack: RunningStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(own_stack.frontend) as connected:
        await connected.ready(SECONDS)
        yield connected


async def answers(client: AsyncClient) -> Tokens:
    found = await asyncio.gather(*(client.generate(prompt, GREEDY) for prompt in PROMPTS))
    return [tuple(answer.token_ids) for answer in found]


@pytest.fixture(scope="module")
def expected(own_stack: RunningStack) -> Tokens:
    """What comes without a fault."""

    async def undisturbed() -> Tokens:
        async with AsyncClient(own_stack.frontend) as client:
            await client.ready(SECONDS)
            return await answers(client)

    return asyncio.run(undisturbed())


async def until_replaced(stack: RunningStack, name: str, pid: int) -> None:
    async with asyncio.timeout(SECONDS):
        while stack.child(name).pid == pid:
            await asyncio.sleep(0.02)


async def test_an_executor_whose_step_hangs_is_replaced(
    own_stack: RunningStack, client: AsyncClient, expected: Tokens, tmp_path: Path
) -> None:
    """Its event loop answers all the time."""
    path, pid = tmp_path / "hang", own_stack.child("executor").pid
    params = replace(GREEDY, max_tokens=8, logits_processors=hostile_plugins.wish(hostile_plugins.HANG_ONCE, path))
    harmless = (await client.generate("x", params)).token_ids
    path.touch()
    hanging, others = asyncio.create_task(client.generate("x", params)), asyncio.create_task(answers(client))
    await until_replaced(own_stack, "executor", pid)
    async with asyncio.timeout(SECONDS):
        assert (await hanging).token_ids == harmless
        assert await others == expected
    await own_stack.assert_settled()


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["executor", "scheduler", "redis"])
async def test_a_process_that_is_stopped_is_replaced(
    own_stack: RunningStack, client: AsyncClient, expected: Tokens, name: str
) -> None:
    pid, running = own_stack.child(name).pid, asyncio.create_task(answers(client))
    while not (await client.server()).num_requests:
        await asyncio.sleep(0.01)
    os.kill(pid, signal.SIGSTOP)
    await until_replaced(own_stack, name, pid)
    async with asyncio.timeout(SECONDS):
        assert await running == expected
        assert await answers(client) == expected
    await own_stack.assert_settled()


@pytest.mark.chaos
async def test_a_frontend_that_is_stopped_is_replaced(own_stack: RunningStack, expected: Tokens) -> None:
    pid = own_stack.child("frontend").pid
    os.kill(pid, signal.SIGSTOP)
    await until_replaced(own_stack, "frontend", pid)
    async with AsyncClient(own_stack.frontend) as client:
        await client.ready(SECONDS)
        assert await answers(client) == expected


@pytest.mark.chaos
async def test_a_request_that_kills_executor_after_executor_fails_alone(
    own_stack: RunningStack, client: AsyncClient, expected: Tokens, tmp_path: Path
) -> None:
    path = tmp_path / "kill"
    path.touch()
    params = replace(GREEDY, max_tokens=8, logits_processors=hostile_plugins.wish(hostile_plugins.DIE, path))
    others = asyncio.create_task(answers(client))
    async with asyncio.timeout(SECONDS):
        lost = "INTERNAL: 4 executors in a row were lost while this ran and got no further"
        with pytest.raises(QuireError, match=lost):
            await client.generate("x", params)
        assert await others == expected
        await client.ready(SECONDS)
        assert await answers(client) == expected
    await own_stack.assert_settled()
