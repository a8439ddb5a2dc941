"""Counters of the requests of one service, as ModelStatistics reports them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from quire.kserve import open_inference_pb2 as pb


class RequestCounters:
    """Of requests that have ended."""

    def __init__(self) -> None:
        self._success, self._fail = pb.StatisticDuration(), pb.StatisticDuration()
        self._num_prompts = 0
        self._latest_ms = 0

    @contextmanager
    def request(self) -> Iterator["Outcome"]:
        """Counts the block as one request; it has failed if it raises, or is left before its end."""
        began, outcome = time.perf_counter_ns(), Outcome()
        self._latest_ms = time.time_ns() // 1_000_000
        try:
            yield outcome
        finally:
            duration = self._success if outcome.num_prompts else self._fail
            duration.count += 1
            duration.ns += time.perf_counter_ns() - began
            self._num_prompts += outcome.num_prompts

    def report(self, name: str, version: str) -> pb.ModelStatistics:
        return pb.ModelStatistics(
            name=name,
            version=version,
            last_inference=self._latest_ms,
            inference_count=self._num_prompts,
            execution_count=self._success.count,
            inference_stats=pb.InferStatistics(success=self._success, fail=self._fail),
        )


class Outcome:
    """Of one request.

    Attributes:
        num_prompts: that were answered; set when all were.
    """

    def __init__(self) -> None:
        self.num_prompts = 0
