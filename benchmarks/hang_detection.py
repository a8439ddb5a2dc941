#!/usr/bin/env python3
"""How long until a service that hangs is noticed: its process is stopped (SIGSTOP), idle or at work.

  python benchmarks/hang_detection.py [--repeats 3] [--stall-seconds 4]

An executor counts as noticed when the scheduler no longer lists it, a scheduler when the frontend's health says
NOT_SERVING. The process then goes on, and the next turn begins when all are SERVING. Each turn stops the process at
another moment between two questions.
"""

import argparse
import asyncio
import os
import random
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.clients.async_client import AsyncClient
from quire.engine.api.errors import QuireError
from quire.engine.api.sampling import SamplingParams
from quire.internal.v1 import scheduler_pb2, scheduler_pb2_grpc
from quire.services.common.channel import open_channel
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack, has_executors, is_serving

POLL_SECONDS = 0.02


async def until_unlisted(scheduler: str) -> None:
    """Returns when the scheduler has no executor."""
    async with open_channel(scheduler) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        while (await stub.GetStatistics(scheduler_pb2.GetStatisticsRequest())).executors:
            await asyncio.sleep(POLL_SECONDS)


async def until_not_serving(frontend: str) -> None:
    """Returns when the frontend says that nothing can be computed."""
    async with open_channel(frontend) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(POLL_SECONDS)


async def keep_busy(frontend: str) -> None:
    """Streams one answer after another."""
    params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
    async with AsyncClient(frontend) as client:
        while True:
            with suppress(QuireError, grpc.aio.AioRpcError):
                async for _ in client.generate_stream("Once upon a time", params):
                    pass
            await asyncio.sleep(POLL_SECONDS)


async def seconds_until(noticed: Coroutine[None, None, None], pid: int) -> float:
    """Seconds from the stop of a process until it is noticed; the process goes on then."""
    began = time.perf_counter()
    os.kill(pid, signal.SIGSTOP)
    try:
        await noticed
        return time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGCONT)


async def measure(stack: Stack, name: str, repeats: int, period: float) -> list[float]:
    pid = next(child.pid for child in stack.children if child.name == name)
    moments, seconds = random.Random(0), []
    for _ in range(repeats):
        await is_serving(stack.frontend)
        await has_executors(stack.frontend, 1)
        await asyncio.sleep(moments.uniform(0, period))
        noticed = until_unlisted(stack.schedulers[0]) if name == "executor" else until_not_serving(stack.frontend)
        seconds.append(await seconds_until(noticed, pid))
    return seconds


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stall-seconds", type=float, default=4.0)
    args = parser.parse_args()
    ports = {"frontend_port": 0, "http_port": 0, "scheduler_port": 0, "executor_port": 0}
    stack = Stack(UpSettings(log_level="error", stall_seconds=args.stall_seconds, **ports), quiet=True)
    try:
        await stack.start()
        print("| stopped | noticed after, s: median | longest | all |")
        print("|---|---|---|---|")
        for load in ("idle", "busy"):
            busy = asyncio.create_task(keep_busy(stack.frontend)) if load == "busy" else None
            for name in ("executor", "scheduler"):
                seconds = sorted(await measure(stack, name, args.repeats, args.stall_seconds))
                row = [
                    f"{name}, {load}",
                    f"{seconds[len(seconds) // 2]:.1f}",
                    f"{seconds[-1]:.1f}",
                    " ".join(f"{each:.1f}" for each in seconds),
                ]
                print(f"| {' | '.join(row)} |", flush=True)
            if busy is not None:
                busy.cancel()
    finally:
        await stack.stop()


if __name__ == "__main__":
    asyncio.run(main())
