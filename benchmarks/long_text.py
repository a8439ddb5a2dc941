#!/usr/bin/env python3
"""How long others wait for the frontend while long texts are sent to it, and how much memory it takes.

  python benchmarks/long_text.py [--model DIR] [--at-once 4] [--probes 200]

Beside each kind of long text, `/health` and `/tokenize` of a short text are asked in turns; the first line is without
any. A process of its own sends the long texts. So the times are the frontend's and those of an idle client.
"""

import argparse
import asyncio
import io
import itertools
import json
import multiprocessing
import statistics
import time
from contextlib import suppress

import aiohttp
import grpc
import psutil

from quire.engine.config import ExecutorConfig
from quire.protos.channel import CHANNEL_OPTIONS
from quire.services.up.settings import UpSettings
from quire.services.up.stack import Stack
from quire.v1 import inference_pb2 as pb

KINDS = {
    "one letter": "a" * 10_000_000,
    "words": "word " * 3_000_000,
    "no ASCII": "é中😀" * 1_000_000,
    "8 MB of no ASCII": "é中😀" * 888_888,
    "8 MB of words": "word " * 1_600_000,
    "1 MiB of words": "word " * 209_715,
    "1 MiB of one letter": "a" * 1_048_576,
}
METHODS = ("/v1/completions", "/tokenize", "Generate", "Tokenize")
# Until the sender sends.
START_SECONDS = 2.0


async def waits(http: aiohttp.ClientSession, num_probes: int) -> list[float]:
    """Seconds that short requests take, one after another."""
    found = []
    for number in range(num_probes):
        began = time.perf_counter()
        if number % 2:
            async with http.get("/health") as response:
                await response.read()
        else:
            async with http.post("/tokenize", json={"prompt": "def mean(values):"}) as response:
                await response.read()
        found.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    return found


def sender(kind: str, method: str, stack: tuple[str, str], at_once: int) -> None:
    """Sends the text until it is killed, and takes whatever comes."""
    asyncio.run(_send(KINDS[kind], method, *stack, at_once))


async def _send(text: str, method: str, http_address: str, grpc_address: str, at_once: int) -> None:
    body = json.dumps({"prompt": text}, ensure_ascii=False).encode()
    kind = pb.TokenizeRequest if method == "Tokenize" else pb.GenerateRequest
    payload = kind(text=text).SerializeToString()
    channel = grpc.aio.insecure_channel(grpc_address, options=CHANNEL_OPTIONS)
    async with aiohttp.ClientSession(f"http://{http_address}") as http, channel:

        async def repeat() -> None:
            while True:
                if method.startswith("/"):
                    headers = {"Content-Type": "application/json"}
                    async with http.post(method, data=io.BytesIO(body), headers=headers) as response:
                        await response.read()
                else:
                    with suppress(grpc.aio.AioRpcError):
                        await channel.unary_unary(f"/quire.v1.InferenceService/{method}")(payload)

        await asyncio.gather(*(repeat() for _ in range(at_once)))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--at-once", type=int, default=4, help="long texts that are on their way all the time")
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--kinds", default=",".join(KINDS))
    args = parser.parse_args()
    ports = {"frontend_port": 0, "http_port": 0, "scheduler_port": 0, "executor_port": 0}
    stack = Stack(UpSettings(executor=ExecutorConfig(model=args.model), log_level="warning", **ports), quiet=True)
    processes = multiprocessing.get_context("spawn")
    try:
        await stack.start()
        frontend = psutil.Process(next(child.pid for child in stack.children if child.name == "frontend"))
        print(f"{args.at_once} long texts at once")
        print("| text | call | others wait, median ms | longest ms | frontend's memory, MiB |")
        print("|---|---|---|---|---|")
        async with aiohttp.ClientSession(f"http://{stack.http}") as http:
            print(_row("none", "none", await waits(http, args.probes), frontend), flush=True)
            for kind, method in itertools.product(args.kinds.split(","), METHODS):
                addresses = (stack.http, stack.frontend)
                process = processes.Process(target=sender, args=(kind, method, addresses, args.at_once), daemon=True)
                process.start()
                await asyncio.sleep(START_SECONDS)
                print(_row(kind, method, await waits(http, args.probes), frontend), flush=True)
                process.kill()
                process.join()
    finally:
        await stack.stop()


def _row(kind: str, name: str, found: list[float], frontend: psutil.Process) -> str:
    median, longest = statistics.median(found) * 1e3, max(found) * 1e3
    return f"| {kind} | {name} | {median:.1f} | {longest:.1f} | {frontend.memory_info().rss / 2**20:.0f} |"


if __name__ == "__main__":
    asyncio.run(main())
