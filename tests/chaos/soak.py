"""A soak: load with cancels and faults for a while, and how the memory of each service grows.

    PYTHONPATH=tests python -m chaos.soak --minutes 30

A service's slope is that of a line through its resident memory over time, by least squares, from a third of the time on
and since its process last started; what starts holds little at first, so a process must have lived for a while.
"""

import argparse
import asyncio
import itertools
import logging
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from chaos.cluster import Cluster, cluster
from chaos.kinds import GENTLE
from chaos.load import Load
from chaos.questions import make_questions
from chaos.report import table
from chaos.storm import Storm

SAMPLE_SECONDS = 1.0
# Between two faults.
PAUSE_SECONDS = (1.0, 5.0)
# A request is cancelled after so long, at most.
CANCEL_SECONDS = 0.5
_MIB = 2**20
Samples = dict[tuple[str, int], list[tuple[float, float]]]


async def watch(running: Cluster, samples: Samples) -> None:
    """Notes (seconds, MiB) of each process until cancelled."""
    began = time.monotonic()
    while True:
        for service in running.services.values():
            if service.is_running:
                resident = service.process.memory_info().rss / _MIB
                samples[service.name, service.pids[-1]].append((time.monotonic() - began, resident))
        await asyncio.sleep(SAMPLE_SECONDS)


async def cancel_on(load: Load, chance: random.Random) -> None:
    """Asks and leaves, until cancelled."""
    while True:
        asking = asyncio.create_task(load.ask_in_vain())
        await asyncio.sleep(chance.uniform(0, CANCEL_SECONDS))
        asking.cancel()
        await asyncio.wait([asking])


def slope(points: list[tuple[float, float]]) -> float:
    """MiB a minute."""
    seconds, memory = zip(*points, strict=True)
    return 60 * statistics.linear_regression(seconds, memory).slope


async def soak(minutes: float, seed: int, folder: Path) -> tuple[Storm, Samples]:
    """The storm when it is over, with what every process held."""
    samples: Samples = defaultdict(list)
    chance = random.Random(seed)
    async with cluster(600, folder) as running:
        load = Load(running, make_questions(28, seed), 6, seed)
        storm = Storm(running, load, seed)
        await load.learn()
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(load.run())
            others = [tasks.create_task(watch(running, samples)), tasks.create_task(cancel_on(load, chance))]
            deadline = time.monotonic() + 60 * minutes
            for kind in itertools.cycle(GENTLE):
                if time.monotonic() > deadline:
                    break
                await storm.strike(kind)
                await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))
            load.stop()
            await asking
            for task in others:
                task.cancel()
        storm.finish()
        await load.close()
    return storm, samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="quire-soak-") as folder:
        storm, samples = asyncio.run(soak(args.minutes, args.seed, Path(folder)))
    print("\n".join(table(storm.rows)))
    print("\n| service | minutes | MiB: first | last | slope, MiB a minute |\n|---|---|---|---|---|")
    for (name, _), points in sorted(samples.items()):
        late = [point for point in points if point[0] > 20 * args.minutes]
        if len(late) > 60 / SAMPLE_SECONDS:
            minutes = (late[-1][0] - late[0][0]) / 60
            print(f"| {name} | {minutes:.1f} | {late[0][1]:.0f} | {late[-1][1]:.0f} | {slope(late):+.2f} |")
    total = storm.total
    print(*total.messages, *total.audit, sep="\n")
    return int(bool(total.num_lost or total.num_different or total.audit))


if __name__ == "__main__":
    raise SystemExit(main())
