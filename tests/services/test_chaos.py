"""Faults at random moments, several at a time, while requests stream: every text is the one without a fault."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import Unavailable
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from support.prompts import random_prompts
from support.redis_server import RedisServer, redis_server
from support.stacks import RunningStack, launch

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

NUM_FAULTS = 16
SECONDS_BETWEEN = (0.2, 3.0)
SECONDS_FROZEN = 1.5
SECONDS_TO_END = 90
# Both pools together hold fewer than these want at once.
PROMPTS = random_prompts(12, 200, 2048, seed=3)
NUM_BLOCKS = 120
GREEDY = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)
SAMPLED = replace(GREEDY, temperature=0.8, top_p=0.95, seed=5)
PARAMS = [
    (SAMPLED, GREEDY, replace(GREEDY, repetition_penalty=1.1), replace(SAMPLED, logprobs=2))[index % 4]
    for index in range(len(PROMPTS))
]

Fault = Callable[[], Awaitable[None]]


@dataclass
class World:
    """Two executors and all that serves them, with a Redis that can be lost."""

    stack: RunningStack
    redis: RedisServer
    num_frontends: int = 1
    log: list[str] = field(default_factory=list)

    def faults(self) -> dict[str, Fault]:
        """What may happen, by name; each brings back what it ended."""
        ends = {
            f"{number.name} {name}": partial(self.end, name, number)
            for name in ("executor0", "executor1", "scheduler")
            for number in (signal.SIGKILL, signal.SIGTERM)
        }
        freezes = {f"freeze {name}": partial(self.freeze, name) for name in ("executor0", "scheduler", "frontend")}
        return {
            **ends,
            **freezes,
            "SIGKILL frontend": self.lose_frontend,
            "flush Redis": self.empty_redis,
            "SIGKILL Redis": self.lose_redis,
        }

    async def end(self, name: str, number: signal.Signals) -> None:
        await self.until_there(name)
        await asyncio.to_thread(self.stack.signal, name, number)
        await asyncio.to_thread(self.stack.start, name)

    async def keep_running(self) -> None:
        """Starts again what ends by itself, as whoever runs services does: a scheduler that finds no Redis."""
        while True:
            for child in self.stack.stack.children:
                if not child.is_running:
                    self.stack.stack.children.remove(child)
                    await asyncio.to_thread(self.stack.start, child.name)
                    break  # what is there may have changed
            await asyncio.sleep(0.2)

    async def until_there(self, name: str) -> None:
        while all(child.name != name for child in self.stack.stack.children):
            await asyncio.sleep(0.05)

    async def freeze(self, name: str) -> None:
        await self.until_there(name)
        pid = self.stack.child(name).pid
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(SECONDS_FROZEN)
        os.kill(pid, signal.SIGCONT)

    async def lose_frontend(self) -> None:
        self.num_frontends += 1
        await self.end("frontend", signal.SIGKILL)

    async def empty_redis(self) -> None:
        await asyncio.to_thread(self.redis.call, "FLUSHALL")

    async def lose_redis(self) -> None:
        await asyncio.to_thread(self.redis.stop)
        await asyncio.to_thread(self.redis.start)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with (
        redis_server() as redis,
        launch(
            DEMO_MODEL, executor={"num_blocks": NUM_BLOCKS, "dtype": "auto"}, num_executors=2, redis=redis.url
        ) as stack,
    ):
        yield World(stack, redis)


async def answer(client: AsyncClient, index: int, tokens: list[int]) -> None:
    """Streams one answer into `tokens`."""
    async for piece in client.generate_stream(PROMPTS[index], PARAMS[index]):
        tokens.extend(piece.token_ids)
    assert piece.finish_reason is FinishReason.LENGTH


async def undisturbed(world: World) -> list[list[int]]:
    """What comes while nothing happens."""
    await asyncio.to_thread(world.stack.until_serving)
    answers: list[list[int]] = [[] for _ in PROMPTS]
    async with AsyncClient(world.stack.frontend) as client:
        await asyncio.gather(*(answer(client, index, tokens) for index, tokens in enumerate(answers)))
    return answers


async def ask_on(world: World, index: int, expected: list[int], over: asyncio.Event) -> int:
    """Asks the same again and again; returns how many answers came.

    A request may be refused, and lost with its frontend. Nothing else may happen to it.
    """
    num_answers = 0
    async with AsyncClient(world.stack.frontend) as client:
        while not over.is_set() or not num_answers:
            tokens: list[int] = []
            frontend = world.num_frontends
            try:
                await answer(client, index, tokens)
            except Unavailable:
                assert not tokens or world.num_frontends > frontend, world.log
                assert tokens == expected[: len(tokens)], world.log
                await asyncio.sleep(0.1)
            else:
                assert tokens == expected, world.log
                num_answers += 1
    return num_answers


@pytest.mark.parametrize("seed", range(4))
async def test_every_text_is_the_one_without_faults(world: World, seed: int) -> None:
    expected = await undisturbed(world)
    chance = random.Random(seed)
    over = asyncio.Event()
    faults = world.faults()
    world.log.clear()
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask_on(world, index, text, over)) for index, text in enumerate(expected)]
        keeping = tasks.create_task(world.keep_running())
        happening: dict[str, asyncio.Task[None]] = {}
        for _ in range(NUM_FAULTS):
            await asyncio.sleep(chance.uniform(*SECONDS_BETWEEN))
            name = chance.choice(list(faults))
            subject = name.split()[1]
            # One thing cannot be ended twice at a time; different ones can.
            if subject in happening:
                await happening[subject]
            world.log.append(name)
            happening[subject] = tasks.create_task(faults[name]())
        await asyncio.gather(*happening.values())
        over.set()
        async with asyncio.timeout(SECONDS_TO_END):
            counts = await asyncio.gather(*asking)
        keeping.cancel()
    assert min(counts) > 0
    assert await undisturbed(world) == expected
    # New prompts go to both pools: one that was idle when Redis was emptied is filled again with its next step.
    async with AsyncClient(world.stack.frontend) as client:
        await asyncio.gather(*(client.generate(prompt, GREEDY) for prompt in random_prompts(24, 200, 2048, seed)))
    await world.stack.assert_settled()
