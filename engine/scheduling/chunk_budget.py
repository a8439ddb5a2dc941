"""How many context tokens a step may take while sequences wait for their next token."""

from typing import Self

from quire.engine.config import SchedulerConfig
from quire.engine.scheduling.step_defaults import STEP_DEFAULTS
from quire.engine.step import ExecutorInfo

SMOOTHING = 0.2
STEPS_OF_BACKLOG = 2


class ChunkBudget:
    """Sizes the context share of a step from measured step times, towards a target of inter-token latency.

    A step's time is modelled as that of its generation plus a cost per context token; both are exponentially
    weighted means over the steps seen.

    Args:
        target_itl_ms: the aim in milliseconds; None: no limit.
        smallest: tokens that a step may always take, so that context never starves.
        most_backlog: where more context tokens wait, full steps get through them sooner, and the aim is given up;
            None: it never is.
    """

    def __init__(self, target_itl_ms: float | None, smallest: int, most_backlog: int | None = None) -> None:
        self._target_us = None if target_itl_ms is None else target_itl_ms * 1000
        self._smallest = smallest
        self._most_backlog = most_backlog
        self._generation_us: float | None = None
        self._token_us: float | None = None

    @classmethod
    def configured(cls, config: SchedulerConfig, info: ExecutorInfo, max_num_tokens: int) -> Self:
        """The setting always holds; the device's default holds only while little context waits."""
        if config.target_itl_ms is not None:
            return cls(config.target_itl_ms, info.block_size)
        return cls(STEP_DEFAULTS[info.device].target_itl_ms, info.block_size, STEPS_OF_BACKLOG * max_num_tokens)

    def limit(self, budget: int, num_generating: int, backlog: int) -> int:
        """The part of a budget of context tokens that may be used beside `num_generating` sequences.

        Args:
            backlog: context tokens that are yet to be computed.
        """
        if self._target_us is None or not num_generating or not self._token_us:
            return budget
        if self._most_backlog is not None and backlog > self._most_backlog:
            return budget
        room_us = self._target_us - (self._generation_us or 0.0)
        return min(budget, max(self._smallest, int(room_us / self._token_us)))

    def observe(self, num_context: int, num_generating: int, compute_us: int) -> None:
        """Learns from a step's composition and its measured time."""
        if not compute_us:
            return
        if not num_context:
            self._generation_us = _mean(self._generation_us, compute_us)
        else:
            base_us = (self._generation_us or 0.0) if num_generating else 0.0
            self._token_us = _mean(self._token_us, max(0.0, compute_us - base_us) / num_context)


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else mean + SMOOTHING * (value - mean)
