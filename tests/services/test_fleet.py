"""Several executors under one scheduler: requests go where they cost least; executors drain, leave and come back."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.resources.ledger.redis import RedisLedger
from quire.services.common.targets import Targets
from quire.services.scheduler.fleet import Fleet
from quire.services.scheduler.supervisor import Supervisor
from support.prompts import random_prompts
from support.stacks import RunningStack, launch

# Of one length, so that equal cost means equal numbers.
PROMPTS = [prompt[:32] for prompt in random_prompts(40, 120, 2048, seed=11) if len(prompt) >= 32][:8]
BLOCK_SIZE = 16
LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
LONGEST = SamplingParams(temperature=0, max_tokens=1500, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def fleet() -> Iterator[RunningStack]:
    with launch(DEMO_MODEL, executor={"num_blocks": 400}, num_executors=2) as running:
        yield running


@pytest.fixture
async def client(fleet: RunningStack) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(fleet.frontend) as connected:
        yield connected


async def num_holders(fleet: RunningStack) -> list[int]:
    """Sequences that hold blocks, per executor."""
    ledger = RedisLedger.connect(fleet.stack.redis)
    found = [await ledger.snapshot(name) for name in fleet.stack.executors]
    await ledger.close()
    return [len(each[1].holds) if each else 0 for each in found]


async def until_spread(fleet: RunningStack, num_each: int = 1) -> None:
    async with asyncio.timeout(60):
        while min(await num_holders(fleet)) < num_each:
            await asyncio.sleep(0.01)


async def test_load_is_spread(fleet: RunningStack, client: AsyncClient) -> None:
    assert (await client.server()).num_executors == 2
    running = [asyncio.create_task(client.generate(prompt, LONGEST)) for prompt in PROMPTS]
    await until_spread(fleet, 3)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await fleet.assert_settled()


async def test_a_prefix_is_found_again(client: AsyncClient) -> None:
    """Whichever executor has the prefix gets the request, though the other is as idle."""
    for prompt in random_prompts(6, 320, 2048, seed=12):
        first = await client.generate(prompt, SHORT)
        second = await client.generate(prompt, SHORT)
        assert second.usage is not None
        assert second.usage.cached_tokens >= (len(prompt) - 1) // BLOCK_SIZE * BLOCK_SIZE
        assert first.token_ids == second.token_ids


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
async def test_one_executor_goes_and_comes_back(
    fleet: RunningStack, client: AsyncClient, number: signal.Signals
) -> None:
    """Its sequences finish there or go on at the other; nothing is lost or different."""
    expected = [(await client.generate(prompt, LONG)).token_ids for prompt in PROMPTS]
    running = [asyncio.create_task(client.generate(prompt, LONG)) for prompt in PROMPTS]
    await until_spread(fleet)
    code = await asyncio.to_thread(fleet.signal, "executor1", number)
    assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    assert [answer.token_ids for answer in await asyncio.gather(*running)] == expected
    async with asyncio.timeout(60):
        while (await client.server()).num_executors > 1:
            await asyncio.sleep(0.05)
    child = await asyncio.to_thread(fleet.call, fleet.stack.launch("executor1"))
    fleet.stack.children.insert(0, child)
    async with asyncio.timeout(60):
        while (await client.server()).num_executors < 2:
            await asyncio.sleep(0.05)


class Recorded(Supervisor):
    """A supervisor that only says when it was asked to leave."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.left = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    def leave(self) -> None:
        self.left.set()

    async def run(self) -> None:
        await self.left.wait()
        await self.may_end.wait()


async def test_names_are_resolved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of a DNS name join and leave; while the name server fails, nobody is sent away."""
    monkeypatch.setattr("quire.services.scheduler.fleet.RESOLVE_SECONDS", 0.01)
    answers: list[list[str] | OSError] = []
    made: dict[str, Recorded] = {}
    num_lookups = 0

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert (host, port) == ("executors", 8003)
        nonlocal num_lookups
        num_lookups += 1
        answer = answers[0] if len(answers) == 1 else answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return [(0, 0, 0, "", (address, port)) for address in answer]

    def supervise(address: str) -> Supervisor:
        made[address] = Recorded(address)
        return made[address]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    answers += [["10.0.0.1"], ["10.0.0.1", "10.0.0.2"], socket_error(), ["10.0.0.2"]]
    task = asyncio.create_task(Fleet(Targets("dns:executors:8003,fixed:1"), supervise).run())
    async with asyncio.timeout(60):
        while "10.0.0.1:8003" not in made or not made["10.0.0.1:8003"].left.is_set():
            await asyncio.sleep(0.01)
    assert set(made) == {"10.0.0.1:8003", "10.0.0.2:8003", "fixed:1"}
    assert not made["10.0.0.2:8003"].left.is_set()
    assert not made["fixed:1"].left.is_set()

    # One that comes back while its supervisor still leaves is not driven twice; afterwards it is driven again.
    leaving = made["10.0.0.2:8003"]
    leaving.may_end.clear()
    answers[:] = [["10.0.0.3"], ["10.0.0.2"]]
    async with asyncio.timeout(60):
        await leaving.left.wait()
        before = num_lookups
        while num_lookups < before + 3:
            await asyncio.sleep(0.01)
        assert made["10.0.0.2:8003"] is leaving
        leaving.may_end.set()
        while made["10.0.0.2:8003"] is leaving:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def socket_error() -> OSError:
    return socket.gaierror("no answer")
