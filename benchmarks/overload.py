#!/usr/bin/env python3
"""What overload costs: goodput at once and ten times what the services can do, and how refusals come.

  python benchmarks/overload.py [--model DIR] [--seconds 10] [--factor 10]

The capacity is that of `--capacity-concurrency` callers which wait for their answers. Then requests are sent at a
fixed rate, whether the earlier ones are answered or not. Client and services share the cores, so sending takes time
from the executor. A client that falls behind sees its own delay in the times of refusals. So a probe, a process of its
own, sends few requests at a time meanwhile: its times are those of the services. A gRPC server in Python takes one new
call each turn of its event loop, so where the executor has all cores, calls wait before they are seen.
"""

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import aiohttp
import numpy as np

from quire.clients.async_client import AsyncClient
from quire.engine.api.errors import Overloaded
from quire.engine.api.sampling import SamplingParams
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack

# Sends one request; raises `Overloaded` if it is refused.
Send = Callable[[], Awaitable[object]]
# Of the probe; a caller whose request is taken waits for the answer.
PROBE_CALLERS = 16
# Seconds behind each request.
PROBE_PAUSE = 0.1


@dataclass
class Outcome:
    """What became of the requests of one load.

    Attributes:
        answered: number of them.
        refused: seconds that each refusal took.
        hints: seconds after which to try again, of each refusal.
        errors: how often each other end occurred.
        seconds: from the first request to the last answer.
    """

    answered: int = 0
    refused: list[float] = field(default_factory=list)
    hints: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    async def of(self, send: Send) -> None:
        began = time.perf_counter()
        try:
            await send()
            self.answered += 1
        except Overloaded as error:
            self.refused.append(time.perf_counter() - began)
            self.hints.append(error.retry_after)
        except Exception as error:
            name = f"{type(error).__name__}: {error}"[:60]
            self.errors[name] = self.errors.get(name, 0) + 1


async def closed_load(send: Send, concurrency: int, seconds: float) -> float:
    """Answers per second to `concurrency` callers."""
    outcome, began = Outcome(), time.perf_counter()

    async def call() -> None:
        while time.perf_counter() < began + seconds:
            await outcome.of(send)

    await asyncio.gather(*(call() for _ in range(concurrency)))
    return outcome.answered / (time.perf_counter() - began)


async def open_load(send: Send, rate: float, seconds: float) -> Outcome:
    """Requests at a fixed rate."""
    outcome, began = Outcome(), time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for index in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + index / rate - time.perf_counter()))
            tasks.create_task(outcome.of(send))
    outcome.seconds = time.perf_counter() - began
    return outcome


async def post(session: aiohttp.ClientSession, prompt: list[int], num_tokens: int) -> None:
    body = {"prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    async with session.post("/v1/completions", json=body) as response:
        text = await response.text()
        if response.status == 429:
            raise Overloaded(text, float(response.headers["Retry-After"]))
        response.raise_for_status()


def probe(name: str, addresses: tuple[str, str], num_tokens: int, results: Connection) -> None:
    """Sends few requests at a time until it is told to end; then sends how long each refusal took."""
    asyncio.run(_probe(name, addresses, num_tokens, results))


async def _probe(name: str, addresses: tuple[str, str], num_tokens: int, results: Connection) -> None:
    outcome = Outcome()
    async with senders(*addresses, num_tokens) as ways:

        async def call() -> None:
            while not results.poll():
                await outcome.of(ways[name])
                await asyncio.sleep(PROBE_PAUSE)

        await asyncio.gather(*(call() for _ in range(PROBE_CALLERS)))
    results.send(outcome.refused)


@asynccontextmanager
async def senders(grpc_address: str, http_address: str, num_tokens: int) -> AsyncIterator[dict[str, Send]]:
    """By the name of the API."""
    random = np.random.default_rng(0)
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    async with (
        AsyncClient(grpc_address) as client,
        aiohttp.ClientSession(f"http://{http_address}", connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield {
            "gRPC": lambda: client.generate(random.integers(3, 500, 16).tolist(), params),
            "HTTP": lambda: post(session, random.integers(3, 500, 16).tolist(), num_tokens),
        }


async def probed_load(
    name: str, addresses: tuple[str, str], num_tokens: int, send: Send, rate: float, seconds: float
) -> tuple[Outcome, list[float]]:
    """Requests at a fixed rate, and how long refusals of a probe took meanwhile."""
    processes = multiprocessing.get_context("spawn")
    results, theirs = processes.Pipe()
    process = processes.Process(target=probe, args=(name, addresses, num_tokens, theirs), daemon=True)
    process.start()
    outcome = await open_load(send, rate, seconds)
    results.send(None)
    refused = await asyncio.to_thread(results.recv)
    await asyncio.to_thread(process.join)
    return outcome, refused


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--capacity-concurrency", type=int, default=32)
    parser.add_argument("--max-waiting", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=64)
    args = parser.parse_args()
    ports = {"frontend_port": 0, "http_port": 0, "scheduler_port": 0, "executor_port": 0}
    settings = UpSettings(
        executor={"model": args.model},
        scheduler={"max_waiting_requests": args.max_waiting},
        log_level="warning",
        **ports,
    )
    stack = Stack(settings, quiet=True)
    try:
        await stack.start()
        cells = "API | load | sent/s | answered/s | goodput | refused | p50 / p99 | of the probe | hints | other ends"
        print(f"| {cells} |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        addresses = (stack.frontend, stack.http)
        async with senders(*addresses, args.output_tokens) as ways:
            for name, send in ways.items():
                await closed_load(send, args.capacity_concurrency, 1.0)
                capacity = await closed_load(send, args.capacity_concurrency, args.seconds)
                for factor in (1.0, args.factor):
                    outcome, refused = await probed_load(
                        name, addresses, args.output_tokens, send, capacity * factor, args.seconds
                    )
                    print_row(name, factor, capacity, outcome, refused)
    finally:
        await stack.stop()


def print_row(name: str, factor: float, capacity: float, outcome: Outcome, probed: list[float]) -> None:
    answered = outcome.answered / outcome.seconds
    hints = f"{min(outcome.hints):.0f} to {max(outcome.hints):.0f} s" if outcome.hints else "-"
    cells = [
        name, f"{factor:g}x", f"{capacity * factor:.0f}", f"{answered:.0f}", f"{answered / capacity:.0%}",
        f"{len(outcome.refused)}", times(outcome.refused), times(probed), hints, f"{outcome.errors or 'none'}",
    ]  # fmt: skip
    print(f"| {' | '.join(cells)} |", flush=True)


def times(seconds: list[float]) -> str:
    return " / ".join(f"{1000 * np.percentile(seconds, q):.0f} ms" for q in (50, 99)) if seconds else "-"


if __name__ == "__main__":
    asyncio.run(main())
