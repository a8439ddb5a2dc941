#!/usr/bin/env python3
"""How long streams pause when the scheduler that leads ends, and a standby takes over.

  python benchmarks/takeover.py [--repeats 30] [--streams 8] [--lease-seconds 0.8]

Starts everything with a standby, streams answers of the demo model, and ends the leader again and again by a signal:
SIGKILL, SIGTERM, or SIGSTOP with SIGCONT three seconds later. A pause is the longest time that a stream is without a
token, counted from the signal. Every answer is compared with the one without a fault. The process that ended is started
again, as the next standby, before the next turn.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import time
from contextlib import suppress

import grpc

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.internal.v1 import scheduler_pb2, scheduler_pb2_grpc
from quire.services.common.channel import open_channel
from quire.services.up.process import Child
from quire.services.up.programs import SCHEDULERS
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack

PARAMS = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
FROZEN_SECONDS = 3.0
POLL_SECONDS = 0.02
# Behind a fault, until each stream has gone on.
SETTLE_SECONDS = 2.0


class Streams:
    """Answers that stream at the same time, again and again.

    Attributes:
        num_answers: that have come, each as expected.
    """

    def __init__(self, frontend: str, count: int) -> None:
        self._frontend = frontend
        self._prompts = [f"def function_{index}(n):" for index in range(count)]
        self._expected: dict[str, list[int]] = {}
        self._began = 0.0
        self._last = [0.0] * count
        self._longest = [0.0] * count
        self.num_answers = 0

    def begin(self) -> None:
        """Pauses count from now on."""
        self._began = time.perf_counter()
        self._longest = [0.0] * len(self._prompts)

    def end(self) -> float:
        """The longest pause of any stream, in seconds."""
        return max(self._longest)

    async def run(self) -> None:
        """Streams until cancelled; raises if an answer is another than the first to its prompt."""
        async with AsyncClient(self._frontend) as client, asyncio.TaskGroup() as tasks:
            for index in range(len(self._prompts)):
                tasks.create_task(self._stream(client, index))

    async def _stream(self, client: AsyncClient, index: int) -> None:
        prompt = self._prompts[index]
        while True:
            tokens: list[int] = []
            async for piece in client.generate_stream(prompt, PARAMS):
                now = time.perf_counter()
                self._longest[index] = max(self._longest[index], now - max(self._began, self._last[index]))
                self._last[index] = now
                tokens += piece.token_ids
            if tokens != self._expected.setdefault(prompt, tokens):
                raise AssertionError(f"{prompt!r}: {tokens}, expected {self._expected[prompt]}")
            self.num_answers += 1


async def state_of(address: str) -> str:
    """ "leads", "waits" or "gone"."""
    async with open_channel(address) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        try:
            await stub.GetStatistics(scheduler_pb2.GetStatisticsRequest(), timeout=1)
        except grpc.aio.AioRpcError as error:
            return "waits" if "standby" in (error.details() or "") else "gone"
        return "leads"


async def roles(stack: Stack) -> tuple[str, str]:
    """(name of the leader, name of the standby), as soon as both are there."""
    while True:
        states = [await state_of(address) for address in stack.schedulers]
        if sorted(states) == ["leads", "waits"]:
            first, second = SCHEDULERS
            return (first, second) if states[0] == "leads" else (second, first)
        await asyncio.sleep(POLL_SECONDS)


async def measure(stack: Stack, streams: Streams, number: signal.Signals, moments: random.Random) -> float:
    leader, _ = await roles(stack)
    place = next(index for index, child in enumerate(stack.children) if child.name == leader)
    child = stack.children[place]
    await asyncio.sleep(moments.uniform(0.5, 1.5))
    streams.begin()
    with suppress(ProcessLookupError):
        os.kill(child.pid, number)
    if number is signal.SIGSTOP:
        await asyncio.sleep(FROZEN_SECONDS)
        os.kill(child.pid, signal.SIGCONT)
        await asyncio.sleep(SETTLE_SECONDS)
        return streams.end()
    await asyncio.sleep(SETTLE_SECONDS)
    pause = streams.end()
    await child.wait()
    stack.children[place] = await Child.start(child.program)
    return pause


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--lease-seconds", type=float, default=0.8)
    args = parser.parse_args()
    os.environ["QUIRE_SCHEDULER_LEASE_SECONDS"] = str(args.lease_seconds)
    ports = {"frontend_port": 0, "http_port": 0, "scheduler_port": 0, "executor_port": 0}
    stack = Stack(UpSettings(log_level="error", standby=True, **ports), quiet=True)
    moments = random.Random(0)
    try:
        await stack.start()
        streams = Streams(stack.frontend, args.streams)
        running = asyncio.create_task(streams.run())
        print("| the leader gets | turns | pause, ms: median | p99 | longest |")
        print("|---|---|---|---|---|")
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            pauses = []
            for _ in range(args.repeats):
                pauses.append(1000 * await measure(stack, streams, number, moments))
                if running.done():
                    running.result()
            pauses.sort()
            p99 = statistics.quantiles(pauses, n=100, method="inclusive")[98]
            figures = f"{statistics.median(pauses):.0f} | {p99:.0f} | {pauses[-1]:.0f}"
            print(f"| {number.name} | {len(pauses)} | {figures} |", flush=True)
        running.cancel()
        print(f"\n{streams.num_answers} answers, none different")
    finally:
        await stack.stop()


if __name__ == "__main__":
    asyncio.run(main())
