"""CPU cost of the load generator: a busy one measures itself."""

import asyncio
import time
from types import TracebackType
from typing import Self

import numpy as np

_TICK = 0.005


class CostMeter:
    """CPU seconds of this process and lateness of its event loop while the context is open.

    Attributes:
        cpu_seconds, wall_seconds: of the context, once it is closed.
        lags: by how many seconds the loop woke too late, one entry per tick of 5 ms.
    """

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self.wall_seconds = 0.0
        self.lags: list[float] = []

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cpu_seconds = time.process_time() - self._cpu
        self.wall_seconds = time.perf_counter() - self._wall
        self._ticking.cancel()

    def lag(self, percent: float) -> float:
        """A percentile of the lateness, in seconds."""
        return float(np.percentile(self.lags or [0.0], percent))

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            self.lags.append(time.perf_counter() - due)
