"""What services take of memory and processors while something goes on."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from quire.services.up.process import Child

SAMPLE_SECONDS = 0.5
# What comes before is warm-up: queues fill, and allocators keep what they got.
WARMUP_SHARE = 0.25


@dataclass
class Resident:
    """Samples of one service and its children.

    Attributes:
        seconds, mib: of each sample.
        computed: processor seconds so far, of each sample.
        delayed: seconds so far in which the main thread, on which event loops run, could have run and got no core.
    """

    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)
    delayed: list[float] = field(default_factory=list)

    def take(self, process: psutil.Process, now: float, has_children: bool = True) -> None:
        """One more sample."""
        size = computed = 0.0
        for each in (process, *(process.children(recursive=True) if has_children else ())):
            with suppress(psutil.NoSuchProcess):
                size += each.memory_info().rss
                computed += sum(each.cpu_times()[:2])
        self.seconds.append(now)
        self.mib.append(size / 2**20)
        self.computed.append(computed)
        # Nanoseconds on a core, then nanoseconds in a run queue: Documentation/scheduler/sched-stats.rst of Linux.
        self.delayed.append(int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9)

    @property
    def mib_per_minute(self) -> float:
        """The slope of a line through the samples behind the warm-up, by least squares; 0 with fewer than two."""
        first = int(len(self.mib) * WARMUP_SHARE)
        seconds, mib = np.array(self.seconds[first:]), np.array(self.mib[first:])
        return float(np.polyfit(seconds / 60, mib, 1)[0]) if len(mib) > 1 else 0.0

    def row(self, name: str) -> str:
        """Of a table as `HEADER`."""
        cells = (self.mib[0], self.mib[-1], max(self.mib), self.mib_per_minute)
        seconds = self.seconds[-1] - self.seconds[0]
        cores, delayed = ((each[-1] - each[0]) / seconds for each in (self.computed, self.delayed))
        return f"| {name} | {' | '.join(f'{cell:.1f}' for cell in cells)} | {cores:.2f} | {delayed:.0%} |"


HEADER = "service | MiB, first | last | highest | MiB a minute | cores | main thread waits for a core"


@asynccontextmanager
async def resident(children: Iterable[Child]) -> AsyncIterator[dict[str, Resident]]:
    """Samples of every service by name, and of this process as `load`, taken while the context is open."""
    processes = {child.name: psutil.Process(child.pid) for child in children}
    found = {name: Resident() for name in (*processes, "load")}
    began = asyncio.get_running_loop().time()

    def sample() -> None:
        now = asyncio.get_running_loop().time() - began
        for name, process in processes.items():
            found[name].take(process, now)
        found["load"].take(psutil.Process(), now, has_children=False)

    async def watch() -> None:
        while True:
            sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    task = asyncio.create_task(watch())
    try:
        yield found
    finally:
        sample()
        task.cancel()
