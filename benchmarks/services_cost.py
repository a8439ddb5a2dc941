#!/usr/bin/env python3
"""The services against `LLM` in one process: the same prompts, the same number at once, in alternating rounds.

  python benchmarks/services_cost.py [--model DIR] [--dtype bfloat16] [--concurrency 32] [--rounds 10]

`LLM.generate_async` and the unary call return the whole completion. Streams return tokens one by one or several at a
time, in a call for each request or in one for all. Client, frontend, scheduler, Redis and executor share the cores, so
the executor lacks what the others use. The benchmark prints that, too, in microseconds of CPU per output token.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import numpy as np
import psutil

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import ExecutorConfig, SchedulerConfig
from quire.engine.llm import LLM
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack

Prompts = Sequence[list[int]]
Send = Callable[[list[int]], Awaitable[object]]


async def rate(prompts: Prompts, params: SamplingParams, concurrency: int, send: Send) -> float:
    """Output tokens per second with `concurrency` requests at once."""
    free = asyncio.Semaphore(concurrency)

    async def one(prompt: list[int]) -> None:
        async with free:
            await send(prompt)

    began = time.perf_counter()
    await asyncio.gather(*map(one, prompts))
    assert params.max_tokens is not None
    return len(prompts) * params.max_tokens / (time.perf_counter() - began)


async def drain(pieces: AsyncIterator[Completion]) -> None:
    async for _ in pieces:
        pass


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """Of every process so far; "client" is this one, where `LLM` sleeps meanwhile."""
    times = {child.name: psutil.Process(child.pid).cpu_times() for child in stack.children}
    return {name: found.user + found.system for name, found in times.items()} | {"client": time.process_time()}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--input-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--num-blocks", type=int, help="of each of the two KV pools")
    parser.add_argument("--stream-interval", type=int, default=1, help="steps that a stream's tokens may wait")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    sizes = {} if args.num_blocks is None else {"num_blocks": args.num_blocks}
    executor = ExecutorConfig(model=args.model, dtype=args.dtype, **sizes)
    params = SamplingParams(temperature=0, max_tokens=args.output_tokens, ignore_eos=True)
    random = np.random.default_rng(0)
    ports = {"frontend_port": 0, "http_port": 0, "scheduler_port": 0, "executor_port": 0}
    settings = UpSettings(executor=executor, log_level="warning", stream_interval=args.stream_interval, **ports)
    stack = Stack(settings, quiet=True)
    llm = LLM(scheduler=SchedulerConfig(), **executor.model_dump(exclude_unset=True))
    rates: dict[str, list[float]] = {}
    used: dict[str, dict[str, float]] = {}
    try:
        await stack.start()
        async with AsyncClient(stack.frontend) as client, AsyncClient(stack.frontend, multiplex=True) as multiplexed:
            ways: dict[str, Send] = {
                "LLM": lambda prompt: llm.generate_async(prompt, params),
                "services, unary": lambda prompt: client.generate(prompt, params),
                "LLM, streaming": lambda prompt: drain(llm.generate_stream_async(prompt, params)),
                "services, streaming": lambda prompt: drain(client.generate_stream(prompt, params)),
                "services, streaming in one call": lambda prompt: drain(multiplexed.generate_stream(prompt, params)),
            }
            for number in range(args.rounds + 1):
                prompts = [random.integers(3, 500, args.input_tokens).tolist() for _ in range(args.requests)]
                for name, send in ways.items():
                    # Every way gets prompts of its own, so that none finds what another has cached.
                    own = [[3 + list(ways).index(name), *prompt[1:]] for prompt in prompts]
                    before = cpu_seconds(stack)
                    found = await rate(own, params, args.concurrency, send)
                    if number:  # the first round warms up
                        rates.setdefault(name, []).append(found)
                        spent = used.setdefault(name, dict.fromkeys(before, 0.0))
                        for process, seconds in cpu_seconds(stack).items():
                            spent[process] += seconds - before[process]
    finally:
        llm.close()
        await stack.stop()
    print(f"{args.concurrency} at once, {args.input_tokens} tokens in, {args.output_tokens} out, {args.rounds} rounds")
    print_rates(rates)
    print_cpu(used, args.rounds * args.requests * args.output_tokens)


def print_rates(rates: dict[str, list[float]]) -> None:
    print("| way | output tokens/s (range) | to LLM, median of rounds (range) | to LLM, streaming |")
    print("|---|---|---|---|")
    for name, found in rates.items():
        cells = [_spread(found, "{:.0f}")]
        for base in ("LLM", "LLM, streaming"):
            ratios = [mine / theirs for mine, theirs in zip(found, rates[base], strict=True)]
            cells.append(_spread(ratios, "{:.3f}"))
        print(f"| {name} | {' | '.join(cells)} |")


def print_cpu(used: dict[str, dict[str, float]], num_tokens: int) -> None:
    print("\n| CPU, µs per output token | " + " | ".join(used["LLM"]) + " | all |")
    print("|---" * (len(used["LLM"]) + 2) + "|")
    for name, spent in used.items():
        cells = [*spent.values(), sum(spent.values())]
        print(f"| {name} | " + " | ".join(f"{seconds / num_tokens * 1e6:.0f}" for seconds in cells) + " |")


def _spread(values: Sequence[float], form: str) -> str:
    median, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low}–{high})"


if __name__ == "__main__":
    asyncio.run(main())
