#!/usr/bin/env python3
"""One frontend, or one of several workers, against a scheduler that makes tokens up as fast as they are read.

  python benchmarks/frontend.py [--streams 1,64,1024] [--tokens 200000] [--ways many,stream,sse] [--model DIR]
      [--workers 1] [--clients 1] [--calls 1] [--steps-per-second 0]

Everything that makes tokens costs the frontend nothing here. The benchmark prints the frontend's CPU time per token, of
all its processes and threads, and what that makes in tokens per second of one core. Clients do not parse what they
read, so that they need less time than the frontend. A client that is behind gets several tokens in a message: the last
column says how many. With --steps-per-second each step waits for its time, as behind real executors.

The cores that frontend, clients and scheduler used say who was the bottleneck. Only a frontend that used all of its
cores, one for each worker, shows what it can do: one that waits for others puts fewer tokens into each message, which
costs more for each of them.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import psutil
from tireless_scheduler import TirelessScheduler

from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.text.fingerprint import tokenizer_fingerprint
from quire.engine.text.tokenizer import Tokenizer
from quire.internal.v1 import scheduler_pb2_grpc
from quire.protos.channel import CHANNEL_OPTIONS
from quire.protos.convert import generate_request
from quire.services.common.server import serving
from quire.services.up.ports import LOOPBACK, free_port
from quire.services.up.stack import is_serving
from quire.v1 import inference_pb2

PROMPT = [5, 6, 7]
# Of "stream": with too few connections their flow control would bound it.
NUM_CHANNELS = 16
READ_BYTES = 1 << 18
# What CPU time is counted in.
CLOCK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """What one client process does.

    Attributes:
        way: "many", "stream" or "sse".
        address: of the API that the way needs.
        num_streams, num_tokens: requests at once, and tokens of each.
        num_channels: connections that the requests of gRPC are spread over.
    """

    way: str
    address: str
    num_streams: int
    num_tokens: int
    num_channels: int


def serve_scheduler(port: int, model: Path, steps_per_second: float) -> None:
    asyncio.run(_serve_scheduler(port, model, steps_per_second))


async def _serve_scheduler(port: int, model: Path, steps_per_second: float) -> None:
    vocab_size = Tokenizer.load(model).backend.get_vocab_size()
    servicer = TirelessScheduler(tokenizer_fingerprint(model), vocab_size, steps_per_second)

    def register(server: grpc.aio.Server) -> None:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server)

    async with serving(f"{LOOPBACK}:{port}", [], register, grace=0):
        await asyncio.Event().wait()


class Meter:
    """Counts messages in a client process, and says when the first one came."""

    def __init__(self, results: Connection) -> None:
        self._results = results
        self._began = 0.0
        self._cpu_began = 0.0
        self._num_messages = 0

    def count(self, number: int = 1) -> None:
        if not self._num_messages and number:
            self._began, self._cpu_began = time.perf_counter(), time.process_time()
            self._results.send("began")
        self._num_messages += number

    def send(self) -> None:
        """The number of messages, and the seconds, of the clock and of CPU time, from the first to now."""
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu_began
        self._results.send((self._num_messages, seconds, cpu))


def run_client(load: Load, results: Connection) -> None:
    meter = Meter(results)
    asyncio.run({"many": many, "stream": stream, "sse": sse}[load.way](load, meter))
    meter.send()


def _params(load: Load) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=load.num_tokens, ignore_eos=True)


async def _over_channels(load: Load, work: Callable[[grpc.aio.Channel, int], Awaitable[object]]) -> None:
    """The work on each of several connections, with its share of the streams."""
    num_channels = min(load.num_channels, load.num_streams)
    shares = [load.num_streams // num_channels + (i < load.num_streams % num_channels) for i in range(num_channels)]
    channels = [grpc.aio.insecure_channel(load.address, options=CHANNEL_OPTIONS) for _ in shares]
    try:
        await asyncio.gather(*map(work, channels, shares))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def many(load: Load, meter: Meter) -> None:
    request = generate_request(PROMPT, _params(load), "")

    async def call(channel: grpc.aio.Channel, num_streams: int) -> None:
        method = channel.stream_stream("/quire.v1.InferenceService/GenerateMany")
        wanted = (inference_pb2.GenerateManyRequest(number=i, generate=request) for i in range(num_streams))
        async for _ in method((each.SerializeToString() for each in wanted), wait_for_ready=True):
            meter.count()

    await _over_channels(load, call)


async def stream(load: Load, meter: Meter) -> None:
    payload = generate_request(PROMPT, _params(load), "").SerializeToString()

    async def calls(channel: grpc.aio.Channel, num_streams: int) -> None:
        method = channel.unary_stream("/quire.v1.InferenceService/GenerateStream")

        async def call() -> None:
            async for _ in method(payload, wait_for_ready=True):
                meter.count()

        await asyncio.gather(*(call() for _ in range(num_streams)))

    await _over_channels(load, calls)


async def sse(load: Load, meter: Meter) -> None:
    body = json.dumps(
        {"prompt": PROMPT, "max_tokens": load.num_tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    ).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    async def call() -> None:
        host, _, port = load.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=READ_BYTES)
        writer.write(head.encode() + body)
        while data := await reader.read(READ_BYTES):
            meter.count(data.count(b"data: "))
        writer.close()

    await asyncio.gather(*(call() for _ in range(load.num_streams)))


def cpu_seconds(pid: int) -> float:
    """Of a process and its children."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(found.user + found.system for found in times)


async def measure(frontend: int, scheduler: int, load: Load, num_clients: int) -> None:
    """Prints a row; each of the client processes has the load's share of streams.

    Args:
        frontend, scheduler: process ids.
    """
    spawned = multiprocessing.get_context("spawn")
    share = replace(load, num_streams=max(1, load.num_streams // num_clients))
    pipes, clients = [], []
    for _ in range(min(num_clients, load.num_streams)):
        results, theirs = spawned.Pipe()
        pipes.append(results)
        clients.append(spawned.Process(target=run_client, args=(share, theirs), daemon=True))
        clients[-1].start()
        theirs.close()
    # That each has had its first message.
    await asyncio.gather(*(asyncio.to_thread(results.recv) for results in pipes))
    before, scheduler_before = cpu_seconds(frontend), cpu_seconds(scheduler)
    found = await asyncio.gather(*(asyncio.to_thread(results.recv) for results in pipes))
    used, scheduler_used = max(cpu_seconds(frontend) - before, CLOCK_SECONDS), cpu_seconds(scheduler) - scheduler_before
    for client in clients:
        client.join()
    num_tokens = len(clients) * share.num_streams * load.num_tokens
    num_messages, seconds = sum(number for number, _, _ in found), max(seconds for _, seconds, _ in found)
    by_clients = sum(cpu for _, _, cpu in found)
    cells = (
        load.way, f"{load.num_streams}", f"{num_tokens / seconds:,.0f}", f"{used / num_tokens * 1e6:.1f}",
        f"{num_tokens / used:,.0f}", *(f"{cpu / seconds:.2f}" for cpu in (used, by_clients, scheduler_used)),
        f"{num_tokens / num_messages:.1f}",
    )  # fmt: skip
    print(f"| {' | '.join(cells)} |", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--streams", default="1,64,1024")
    parser.add_argument("--ways", default="many,stream,sse")
    parser.add_argument("--tokens", type=int, default=200_000, help="of all streams of one measurement together")
    parser.add_argument("--workers", type=int, default=1, help="of the frontend")
    parser.add_argument(
        "--calls", type=int, default=1, help="of GenerateMany in a client process, each on a connection"
    )
    parser.add_argument("--clients", type=int, default=1, help="processes that the streams are spread over")
    parser.add_argument("--steps-per-second", type=float, default=0.0)
    args = parser.parse_args()
    scheduler_port, grpc_port, http_port = free_port(), free_port(), free_port()
    spawned = multiprocessing.get_context("spawn")
    scheduler = spawned.Process(
        target=serve_scheduler, args=(scheduler_port, args.model, args.steps_per_second), daemon=True
    )
    scheduler.start()
    assert scheduler.pid is not None
    flags = [
        f"--listen={LOOPBACK}:{grpc_port}", f"--http-listen={LOOPBACK}:{http_port}", f"--model={args.model}",
        f"--scheduler={LOOPBACK}:{scheduler_port}", "--log-level=warning", f"--workers={args.workers}",
    ]  # fmt: skip
    frontend = await asyncio.create_subprocess_exec(sys.executable, "-m", "quire.services.cli", "frontend", *flags)
    try:
        await is_serving(f"{LOOPBACK}:{grpc_port}")
        head = "way | streams | tokens/s | CPU, µs per token | tokens/s of a core"
        print(f"| {head} | cores: frontend | clients | scheduler | tokens per message |")
        print("|---|---|---|---|---|---|---|---|---|")
        for way in args.ways.split(","):
            port = http_port if way == "sse" else grpc_port
            for num_streams in map(int, args.streams.split(",")):
                num_tokens = max(1, args.tokens // num_streams)
                num_channels = NUM_CHANNELS if way == "stream" else args.calls
                load = Load(way, f"{LOOPBACK}:{port}", num_streams, num_tokens, num_channels)
                await measure(frontend.pid, scheduler.pid, load, args.clients)
    finally:
        frontend.send_signal(signal.SIGTERM)
        await frontend.wait()
        scheduler.terminate()


if __name__ == "__main__":
    asyncio.run(main())
