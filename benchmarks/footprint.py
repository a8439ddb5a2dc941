#!/usr/bin/env python3
"""What each service takes of a machine, idle and under load: the figures that requests of resources are made from.

  python benchmarks/footprint.py [--model FOLDER] [--requests 512] [--concurrency 64]

Prompts have 128 tokens, answers 64. Memory is the resident set of a service and its children, at its highest. CPU is
the time that they computed: how long all took does not matter, so the machine may do other work.
"""

import argparse
import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import NamedTuple

import psutil

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.services.up.process import Child
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack

SAMPLE_SECONDS = 0.1
INPUT_TOKENS, OUTPUT_TOKENS = 128, 64


class Footprint(NamedTuple):
    """Of one service: MiB resident, and seconds computed."""

    mib: float
    cpu_seconds: float


def usage(child: Child) -> Footprint:
    """So far."""
    process = psutil.Process(child.pid)
    mib = cpu_seconds = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            mib += each.memory_info().rss / 2**20
            times = each.cpu_times()
            cpu_seconds += times.user + times.system
    return Footprint(mib, cpu_seconds)


async def watched(children: list[Child], work: Awaitable[None]) -> dict[str, Footprint]:
    """What each service takes until the work is done: at its highest, and in all."""
    task = asyncio.ensure_future(work)
    first = {child.name: usage(child) for child in children}
    peaks = {name: each.mib for name, each in first.items()}
    while not task.done():
        await asyncio.wait([task], timeout=SAMPLE_SECONDS)
        for child in children:
            peaks[child.name] = max(peaks[child.name], usage(child).mib)
    task.result()
    return {
        child.name: Footprint(peaks[child.name], usage(child).cpu_seconds - first[child.name].cpu_seconds)
        for child in children
    }


async def generate(frontend: str, num_requests: int, concurrency: int) -> None:
    """Streams the answers to prompts that have nothing in common."""
    params = SamplingParams(temperature=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
    numbers = iter(range(num_requests))

    async def stream(client: AsyncClient) -> None:
        for number in numbers:
            prompt = [(number * 131 + place * 17) % 1000 for place in range(INPUT_TOKENS)]
            async for _ in client.generate_stream(prompt, params):
                pass

    async with AsyncClient(frontend) as client:
        await asyncio.gather(*(stream(client) for _ in range(concurrency)))


async def run(options: argparse.Namespace) -> None:
    ports = dict.fromkeys(("frontend_port", "http_port", "scheduler_port", "executor_port"), 0)
    executor = {"model": options.model} if options.model else {}
    stack = Stack(UpSettings.model_validate({**ports, "executor": executor}), quiet=True)
    try:
        await stack.start()
        idle = await watched(stack.children, asyncio.sleep(1))
        busy = await watched(stack.children, generate(stack.frontend, options.requests, options.concurrency))
    finally:
        await stack.stop()
    print("| service | MiB, idle | MiB, busy | CPU seconds for 1,000 output tokens |\n|---|---|---|---|")
    for name, each in busy.items():
        per_token = each.cpu_seconds / (options.requests * OUTPUT_TOKENS)
        print(f"| {name} | {idle[name].mib:,.0f} | {each.mib:,.0f} | {1000 * per_token:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hugging Face folder; default: the demo model")
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--concurrency", type=int, default=64)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
