#!/usr/bin/env python3
"""What the start of an executor consists of, and how soon one that was killed makes tokens again.

  python benchmarks/executor_start.py [--rounds 5] [--kills 5] [--peer FOLDER] [--model DIR]

First the parts of a start, one behind the other in a process without services: seconds of CPU, as other work on the
machine does not change these much. Files are in the page cache, and kernels compiled. Then a stack that is supervised
as `quire up` does, with a stream: its only executor gets SIGKILL, and it is measured how long it takes until the next
executor's process runs, says SERVING, is attached, and until the stream goes on. With --peer, a folder that holds
another build of the package `quire`, both are measured.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress

import grpc

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack, has_executors, is_serving

PARTS = """
import json, sys, time
now, parts = time.process_time, {}
began = now()
def part(name):
    global began
    parts[name], began = now() - began, now()
try:
    from quire.engine.garbage import no_gc
except ImportError:
    from contextlib import nullcontext as no_gc
with no_gc():
    import torch
    part("PyTorch's import")
    from quire.services.executor import main
    from quire.engine.config import ExecutorConfig
    part("all other imports")
model = json.loads(sys.argv[1])
main.Executor(ExecutorConfig(model=model, num_blocks=1))
part("config.json, weights, kernels, tokenizer's fingerprint")
before = now()
main.Executor(ExecutorConfig(model=model, num_blocks=1))
rest, began = now() - before, now()
main.Executor(ExecutorConfig(model=model))
part("KV pool")
parts["KV pool"] -= rest
print(json.dumps(parts))
"""
MOMENTS = ("its process runs", "SERVING", "attached", "the stream goes on")
PARAMS = SamplingParams(temperature=0, max_tokens=500, ignore_eos=True)
POLL_SECONDS = 0.01


def parts_of_a_start(env: dict[str, str], model: str | None) -> dict[str, float]:
    bare = cpu_seconds([sys.executable, "-c", "pass"], env)[0]
    _, printed = cpu_seconds([sys.executable, "-c", PARTS, json.dumps(model)], env)
    parts: dict[str, float] = json.loads(printed)
    return {"the interpreter": bare, **parts}


def cpu_seconds(command: list[str], env: dict[str, str]) -> tuple[float, str]:
    """Of a command, and what it prints."""
    began = os.times()
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    ended = os.times()
    return ended.children_user + ended.children_system - began.children_user - began.children_system, done.stdout


async def keep_streaming(frontend: str, last: list[float]) -> None:
    """Streams one answer after another; `last` has the time of the newest token."""
    async with AsyncClient(frontend) as client:
        while True:
            async for _ in client.generate_stream("def f(", PARAMS):
                last[0] = time.perf_counter()


async def kill(stack: Stack, last: list[float]) -> list[float]:
    """Seconds from the SIGKILL of the executor to each of `MOMENTS`."""
    place = next(index for index, child in enumerate(stack.children) if child.name == "executor")
    pid = stack.children[place].pid
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    seconds = []
    while stack.children[place].pid == pid:
        await asyncio.sleep(POLL_SECONDS)
    seconds.append(time.perf_counter() - began)
    for ready in (is_serving(stack.executors[0]), has_executors(stack.frontend, 1)):
        await ready
        seconds.append(time.perf_counter() - began)
    # Tokens that were on their way come within this time.
    while last[0] < began + seconds[0]:
        await asyncio.sleep(POLL_SECONDS)
    return [*seconds, last[0] - began]


async def restarts(count: int, env: dict[str, str], model: str | None) -> list[list[float]]:
    ports = {"frontend_port": 0, "http_port": 0, "scheduler_port": 0, "executor_port": 0}
    os.environ.update(env)
    stack = Stack(UpSettings(log_level="error", executor={"model": model}, **ports), quiet=True)
    last, found = [0.0], []
    tasks: list[asyncio.Task[None]] = []
    try:
        await stack.start()
        tasks += [asyncio.create_task(stack.supervise()), asyncio.create_task(keep_streaming(stack.frontend, last))]
        while not last[0]:
            await asyncio.sleep(POLL_SECONDS)
        for _ in range(count):
            found.append(await kill(stack, last))
            await asyncio.sleep(0.5)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await asyncio.gather(*tasks)
        await stack.stop()
    return found


def described(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--peer", help="folder with another build of the package")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=5)
    args = parser.parse_args()
    envs = {"this": dict(os.environ)}
    if args.peer is not None:
        envs["peer"] = os.environ | {"PYTHONPATH": args.peer}
    shares: dict[str, dict[str, list[float]]] = {build: defaultdict(list) for build in envs}
    for _ in range(args.rounds):
        for build, env in envs.items():
            for name, seconds in parts_of_a_start(env, args.model).items():
                shares[build][name].append(seconds)
    print(f"| part of a start, seconds of CPU: median (range) | {' | '.join(envs)} |")
    print("|---|" + "---|" * len(envs))
    for name in shares["this"]:
        print(f"| {name} | {' | '.join(described(shares[build][name]) for build in envs)} |")
    print(f"| all | {' | '.join(described(all_of(shares[build])) for build in envs)} |")
    if args.kills:
        found = {build: asyncio.run(restarts(args.kills, env, args.model)) for build, env in envs.items()}
        print(f"\n| from SIGKILL until, seconds: median (range) | {' | '.join(envs)} |")
        print("|---|" + "---|" * len(envs))
        for index, name in enumerate(MOMENTS):
            cells = (described([each[index] for each in found[build]]) for build in envs)
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def all_of(parts: dict[str, list[float]]) -> list[float]:
    return [sum(each) for each in zip(*parts.values(), strict=True)]


if __name__ == "__main__":
    main()
