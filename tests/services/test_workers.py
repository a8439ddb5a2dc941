"""`--workers`: several processes behind one port look like one frontend."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import replace

import aiohttp
import psutil
import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion, FinishReason, join
from quire.engine.api.errors import Unavailable
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.services.up.ports import LOOPBACK, free_port
from support.scrapes import scrape, total
from support.stacks import RunningStack, launch, start_frontend

# So many that it is as good as certain that each of two workers has some.
NUM_CONNECTIONS = 16
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
# As long as the context allows, so that it runs until it is aborted.
LONG = replace(GREEDY, max_tokens=2000)


@pytest.fixture(scope="module")
def pair() -> Iterator[RunningStack]:
    """A stack whose frontend has two workers, both of which listen."""
    with launch(DEMO_MODEL, frontend_workers=2) as running:
        until_listening(running)
        yield running


@pytest.fixture
async def clients(pair: RunningStack) -> AsyncIterator[list[AsyncClient]]:
    """Each with a connection of its own."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(AsyncClient(pair.frontend, timeout=60)) for _ in range(NUM_CONNECTIONS)]


def workers(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children()


def connections(worker: psutil.Process, place: str, status: str = psutil.CONN_ESTABLISHED) -> int:
    port = int(place.rpartition(":")[2])
    return sum(each.status == status and each.laddr.port == port for each in worker.net_connections("tcp"))


def until_listening(running: RunningStack) -> None:
    """One is enough for a frontend to serve; the other one may still be starting."""
    for place in (running.frontend, running.http):
        listening = 0
        while listening < 2:
            both = workers(running.child("frontend").pid)
            listening = sum(connections(each, place, psutil.CONN_LISTEN) > 0 for each in both)
            time.sleep(0.02)


def is_over(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until_ended(processes: list[psutil.Process]) -> None:
    while not all(map(is_over, processes)):
        await asyncio.sleep(0.02)


async def answer(client: AsyncClient, params: SamplingParams, name: str = "") -> Completion:
    return join([piece async for piece in client.generate_stream("def", params, request_id=name)])


async def test_connections_are_spread_and_answers_are_the_same(pair: RunningStack, clients: list[AsyncClient]) -> None:
    answers = await asyncio.gather(*(answer(client, GREEDY) for client in clients))
    assert {each.text for each in answers} == {answers[0].text}
    both = workers(pair.child("frontend").pid)
    assert len(both) == 2
    assert all(connections(worker, pair.frontend) for worker in both)
    # One that is kept open for each.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        gets = [await status(http.get(f"http://{pair.http}/health")) for _ in range(NUM_CONNECTIONS)]
        assert set(gets) == {200}
        posts = [http.post(f"http://{pair.http}/v1/completions", json={"prompt": "def"}) for _ in range(32)]
        assert set(await asyncio.gather(*map(status, posts))) == {200}
        assert all(connections(worker, pair.http) for worker in both)


async def status(call: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> int:
    """Of a response that is read to its end."""
    async with call as response:
        await response.read()
        return response.status


async def test_a_request_is_found_by_whichever_worker_is_asked(pair: RunningStack, clients: list[AsyncClient]) -> None:
    running = [asyncio.create_task(answer(client, LONG, f"{index}")) for index, client in enumerate(clients)]
    while (await clients[0].server()).num_requests < len(clients):
        assert not any(each.done() for each in running)
        await asyncio.sleep(0.01)
    neighbours = [*clients[1:], clients[0]]
    assert all(await asyncio.gather(*(client.abort(f"{index}") for index, client in enumerate(neighbours))))
    assert {each.finish_reason for each in await asyncio.gather(*running)} == {FinishReason.ABORTED}
    assert not await clients[0].abort("0")
    assert (await clients[0].server()).num_requests == 0


async def test_a_worker_that_is_killed_takes_its_requests_and_comes_back(pair: RunningStack) -> None:
    frontend = pair.child("frontend").pid
    killed, other = workers(frontend)
    killed.kill()
    await until_ended([killed])
    # A connection that it was about to accept is lost with it.
    found = None
    while found is None:
        with suppress(Unavailable):
            async with AsyncClient(pair.frontend, timeout=60) as client:
                found = await answer(client, GREEDY)
    assert found.finish_reason is FinishReason.LENGTH
    while len(now := workers(frontend)) < 2 or killed in now:
        await asyncio.sleep(0.02)
    assert other in now
    assert pair.child("frontend").is_running


async def test_requests_end_before_the_workers_do(pair: RunningStack) -> None:
    place = f"{LOOPBACK}:{free_port()}"
    child = await start_frontend(pair, place, workers=2, drain_seconds=60)
    both = workers(child.pid)
    async with AsyncClient(place, timeout=60) as client:
        running = client.generate_stream("def", replace(GREEDY, max_tokens=200))
        await anext(running)
        os.kill(child.pid, signal.SIGTERM)
        rest = [piece async for piece in running]
    assert rest[-1].finish_reason is FinishReason.LENGTH
    assert await asyncio.to_thread(lambda: pair.call(child.wait())) == 0
    await until_ended(both)


async def test_workers_end_with_their_frontend(pair: RunningStack) -> None:
    child = await start_frontend(pair, f"{LOOPBACK}:{free_port()}", workers=2)
    both = workers(child.pid)
    assert len(both) == 2
    os.kill(child.pid, signal.SIGKILL)
    await until_ended(both)


@pytest.mark.parametrize("number", [1, 2])
def test_a_port_that_is_in_use(pair: RunningStack, number: int) -> None:
    flags = [f"--listen={pair.frontend}", "--http-listen=", f"--workers={number}"]
    command = [sys.executable, "-m", "quire.services.cli", "frontend", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    message = f"quire frontend: error: --listen {pair.frontend}: cannot listen there: Address already in use\n"
    assert done.stderr.endswith(message)


def test_workers_that_cannot_start(pair: RunningStack, tmp_path: object) -> None:
    flags = [f"--listen={LOOPBACK}:0", "--http-listen=", f"--model={tmp_path}", "--workers=2"]
    command = [sys.executable, "-m", "quire.services.cli", "frontend", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "ended with exit code 1 before it listened" in done.stderr
    assert "Traceback" not in done.stderr


async def test_metrics_are_those_of_all_workers(pair: RunningStack, clients: list[AsyncClient]) -> None:
    name = "quire_frontend_requests_total"
    before = await asyncio.to_thread(scrape, pair.http)
    await asyncio.gather(*(client.generate("a", GREEDY) for client in clients))
    # Whichever worker answers.
    for _ in range(NUM_CONNECTIONS):
        after = await asyncio.to_thread(scrape, pair.http)
        grown = [total(after, name, worker=str(worker)) - total(before, name, worker=str(worker)) for worker in (0, 1)]
        assert sum(grown) == len(clients)
        assert min(grown) > 0
        # What is the same for both is there once.
        assert total(after, "quire_frontend_executors") == 1
        assert total(after, "process_open_fds", worker="0") > 0
