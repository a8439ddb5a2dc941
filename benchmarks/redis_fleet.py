"""How many executors one Redis carries: the transactions of a whole fleet, replayed as fast as it takes them.

    python benchmarks/redis_fleet.py [--executors 500] [--rate 50] [--sequences 16,64,256] [--steps 40]

The transactions of one executor's steady decoding are recorded once and replayed for a pool of each executor, one
per executor and step, pipelined. What counts is the rate that Redis sustains against executors x rate.
"""

import argparse
import asyncio
import socket
import statistics
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import redis
import redis.asyncio
from private_redis import private_redis
from scheduler_cost import make_scheduler, pretend

from quire.engine.resources.ledger.pool_state import PoolIdentity
from quire.engine.resources.ledger.redis import RedisLedger
from quire.engine.step import DeviceKind, ExecutorInfo

BLOCK_SIZE = 16
NAME = "fleet-0000"
Command = tuple[bytes, ...]


class Recorder:
    """A Redis client that remembers the scripts it ran."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client
        self.commands: list[Command] = []

    async def evalsha(self, digest: str, num_keys: int, *args: Any) -> Any:
        self.commands.append(tuple(_bytes(each) for each in ("EVALSHA", digest, num_keys, *args)))
        return await self._client.evalsha(digest, num_keys, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


async def record(url: str, num_sequences: int, num_steps: int) -> tuple[list[Command], int]:
    """The commands of one executor: opening its pool and starting, then `num_steps` of steady decoding."""
    client = redis.asyncio.Redis.from_url(url)
    recorder = Recorder(client)
    ledger = RedisLedger(recorder)  # type: ignore[arg-type]
    num_blocks = num_sequences * (6 + (num_steps + 300) // BLOCK_SIZE)
    info = ExecutorInfo("x", "model", 32_000, 10**6, num_blocks, BLOCK_SIZE, num_sequences, (), DeviceKind.GPU)
    pool = PoolIdentity(NAME, "x", "model", num_blocks, BLOCK_SIZE)
    state = await ledger.open(pool, 1)
    scheduler = make_scheduler(num_sequences, num_steps, info, state)
    rng, begin = np.random.default_rng(2), 0
    for step in range(num_steps + 10):
        plan = scheduler.schedule()
        assert plan is not None
        if step == 10:
            begin = len(recorder.commands)
        await ledger.commit(pool, 1, scheduler.take_transaction())
        scheduler.update(pretend(plan, rng))
    await ledger.close()
    return recorder.commands, begin


def renamed(commands: Iterable[Command], executor: int) -> bytes:
    """The commands for another pool, as they travel."""
    name = f"fleet-{executor:04}".encode()
    return b"".join(_pack([arg.replace(NAME.encode(), name) for arg in command]) for command in commands)


def replay(url: str, batches: list[bytes], replies_each: int) -> float:
    """Seconds until every batch is answered; two batches are under way at a time, as from a busy scheduler."""
    port = int(url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        window = threading.Semaphore(2)

        def read() -> None:
            missing = replies_each * len(batches)
            in_batch, tail = 0, b""
            while missing:
                data = tail + connection.recv(1 << 20)
                count = data.count(b"$2\r\nOK\r\n")
                assert b"CONFLICT" not in data
                assert b"-ERR" not in data
                tail = data[data.rfind(b"$2\r\nOK\r\n") + 8 :] if count else data
                missing -= count
                in_batch += count
                while in_batch >= replies_each:
                    in_batch -= replies_each
                    window.release()

        reader = threading.Thread(target=read)
        reader.start()
        began = time.perf_counter()
        for batch in batches:
            window.acquire()
            connection.sendall(batch)
        reader.join()
        return time.perf_counter() - began


def run(url: str, num_executors: int, rate: int, num_sequences: int, num_steps: int) -> str:
    client = redis.Redis.from_url(url)
    client.flushall()
    commands, begin = asyncio.run(record(url, num_sequences, num_steps))
    client.flushall()
    for executor in range(num_executors):
        replay(url, [renamed(commands[:begin], executor)], begin)
    steps = [
        b"".join(renamed([command], executor) for executor in range(num_executors)) for command in commands[begin:]
    ]
    client.config_resetstat()
    seconds = replay(url, steps, num_executors)
    usec = client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    size = statistics.mean(len(step) for step in steps) / num_executors
    per_second = num_executors * len(steps) / seconds
    carried = int(per_second / rate)
    client.close()
    return f"| {num_sequences:>5} | {size:6.0f} | {usec:6.1f} | {per_second:8.0f} | {carried:>5} |"


def _pack(args: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(arg), arg) for arg in args)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", type=int, default=500)
    parser.add_argument("--rate", type=int, default=50, help="steps per second of each executor")
    parser.add_argument("--sequences", default="16,64,256", help="sequences decoding on each executor")
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    print(f"{args.executors} executors' pools on one Redis; carried: executors at {args.rate} steps per second")
    print("| seqs each | bytes | Redis µs | transactions/s | carried |")
    print("|---|---|---|---|---|")
    with private_redis() as url:
        for count in args.sequences.split(","):
            print(run(url, args.executors, args.rate, int(count), args.steps), flush=True)


if __name__ == "__main__":
    main()
