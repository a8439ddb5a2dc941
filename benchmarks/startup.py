#!/usr/bin/env python3
"""How long `quire up` takes until each service is SERVING, and which share of that its imports are.

  python benchmarks/startup.py [--rounds 5] [--peer FOLDER] [--model DIR]

With --peer, a folder that holds another build of the package `quire`, both are measured in alternating rounds. Imports
are measured by themselves, in seconds of CPU: a process that imports the service's module and ends, less one that
imports nothing. The executor's also reads config.json, which may import more.
"""

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.services.up.ports import LOOPBACK, free_ports

SERVICES = ("executor", "scheduler", "frontend")
COMMAND = "quire up"
POLL_SECONDS = 0.01
READ_MODEL = """
from quire.engine.weights.checkpoint import read_checkpoint
from quire.engine.model.source import resolve_model
read_checkpoint(resolve_model(None))
"""
OPTIONS = [(f"grpc.{name}_reconnect_backoff_ms", int(1000 * POLL_SECONDS)) for name in ("initial", "min", "max")]
Seconds = dict[str, float]


async def serving(address: str) -> float:
    """The moment at which the service at the address said SERVING."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            with suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(health_pb2.HealthCheckRequest())
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return time.perf_counter()
            await asyncio.sleep(POLL_SECONDS)


async def start(env: dict[str, str], model: str | None) -> Seconds:
    """Seconds from the start of `quire up` to SERVING of each service, and to the end of its own start."""
    ports = dict(zip((*SERVICES, "http"), free_ports(), strict=False))
    flags = [f"--{name}-port={port}" for name, port in ports.items()]
    command = [sys.executable, "-m", "quire.services.cli", "up", "--log-level=warning", *flags]
    if model is not None:
        command.append(f"--model={model}")
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    waiting = [asyncio.create_task(serving(f"{LOOPBACK}:{ports[name]}")) for name in SERVICES]
    try:
        while line := await process.stdout.readline():
            if b"Ctrl-C" in line:
                break
        else:
            raise SystemExit("quire up has ended")
        ended = time.perf_counter()
        moments = await asyncio.gather(*waiting)
    finally:
        for task in waiting:
            task.cancel()
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        await process.communicate()
    return {COMMAND: ended - began} | {name: moment - began for name, moment in zip(SERVICES, moments, strict=True)}


def imports(env: dict[str, str]) -> Seconds:
    """Seconds of CPU that each service's imports take."""
    codes = {COMMAND: "import quire.services.up.main"}
    codes |= {name: f"import quire.services.{name}.main" for name in SERVICES}
    codes["executor"] += READ_MODEL
    bare = cpu_seconds("pass", env)
    return {name: cpu_seconds(code, env) - bare for name, code in codes.items()}


def cpu_seconds(code: str, env: dict[str, str]) -> float:
    began = os.times()
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    ended = os.times()
    return ended.children_user + ended.children_system - began.children_user - began.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--peer", help="folder with another build of the package")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    envs = {"this": dict(os.environ)}
    if args.peer is not None:
        envs["peer"] = os.environ | {"PYTHONPATH": args.peer}
    starts: dict[str, list[Seconds]] = defaultdict(list)
    shares: dict[str, list[Seconds]] = defaultdict(list)
    for _ in range(args.rounds):
        for build, env in envs.items():
            starts[build].append(asyncio.run(start(env, args.model)))
            shares[build].append(imports(env))
    print("| seconds, median (range) | build | to SERVING | imports, CPU |")
    print("|---|---|---|---|")
    for name in (COMMAND, *SERVICES):
        for build in envs:
            times = (described([each[name] for each in found[build]]) for found in (starts, shares))
            print(f"| {name} | {build} | {' | '.join(times)} |")


def described(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
