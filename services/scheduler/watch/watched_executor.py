"""One executor while somebody watches: its block map, and figures of its steps."""

from collections import deque
from dataclasses import asdict
from typing import Final, NamedTuple

from quire.engine.resources.ledger.transaction import LedgerTransaction
from quire.engine.step import StepPlan, StepResult
from quire.engine.step_observer import StepObserver
from quire.internal.v1 import scheduler_pb2 as pb
from quire.protos.block_map import MAX_BLOCKS
from quire.services.scheduler.attached_executor import AttachedExecutor
from quire.services.scheduler.watch.pool_map import PoolMap

# Times of steps that are kept from one snapshot to the next.
MAX_STEPS: Final = 4096


class Figures(NamedTuple):
    """Of the steps since the last ones.

    Attributes:
        num_generated, num_context, num_reused: tokens.
        intervals: seconds from one token of a sequence to its next, and of how many sequences.
    """

    num_generated: int
    num_context: int
    num_reused: int
    intervals: list[tuple[float, int]]


class WatchedExecutor(StepObserver):
    """Observes the steps of an attached executor until it is closed.

    Attributes:
        executor: as given.
    """

    def __init__(self, executor: AttachedExecutor) -> None:
        self.executor = executor
        scheduler = executor.scheduler
        is_shown = scheduler.pool.num_blocks <= MAX_BLOCKS
        self._map = PoolMap(scheduler.pool.state, scheduler.running) if is_shown else None
        self._is_new = True
        self._before = scheduler.statistics
        self._num_generated = 0
        # When the last tokens came, in nanoseconds, and how many; 0: nothing ran since.
        self._last = (0, 0)
        self._intervals: deque[tuple[float, int]] = deque(maxlen=MAX_STEPS)
        executor.loop.observe(self)

    def close(self) -> None:
        """Observes no longer; harmless if repeated."""
        self.executor.loop.unobserve(self)

    def committed(self, transaction: LedgerTransaction) -> None:
        if self._map is not None:
            self._map.note(transaction)

    def planned(self, plan: StepPlan, began: int, scheduled: int, committed: int, sent: int) -> None:
        if self.executor.scheduler.num_in_flight == 1:
            self._last = (0, 0)

    def updated(self, result: StepResult, num_tokens: int, began: int, received: int, updated: int) -> None:
        self._num_generated += num_tokens
        before, num_before = self._last
        if common := min(num_before, num_tokens):
            self._intervals.append(((updated - before) / 1e9, common))
        self._last = (updated, num_tokens)

    def take_figures(self) -> Figures:
        """What has come since the last call."""
        now, before = self.executor.scheduler.statistics, self._before
        num_context = now.num_context_tokens - before.num_context_tokens
        num_reused = now.num_reused_tokens + now.num_copied_tokens - before.num_reused_tokens - before.num_copied_tokens
        figures = Figures(self._num_generated, num_context, num_reused, list(self._intervals))
        self._before, self._num_generated = now, 0
        self._intervals.clear()
        return figures

    def changes(self) -> pb.ExecutorSnapshot:
        """Its state, with what has changed in the block map since the last call; the first time with all of it."""
        runs = b"" if self._map is None else self._map.take()
        if self._is_new:
            self._is_new = False
            return self.whole()
        return self._snapshot(runs, is_whole=False)

    def whole(self) -> pb.ExecutorSnapshot:
        """Its state, with the whole block map as of the last `changes`."""
        return self._snapshot(b"" if self._map is None else self._map.whole(), is_whole=self._map is not None)

    def _snapshot(self, runs: bytes, is_whole: bool) -> pb.ExecutorSnapshot:
        executor = self.executor
        return pb.ExecutorSnapshot(
            statistics=pb.ExecutorStatistics(
                name=executor.name, is_draining=executor.is_draining, **asdict(executor.scheduler.statistics)
            ),
            block_size=executor.info.block_size,
            block_runs=runs,
            is_whole=is_whole,
        )
