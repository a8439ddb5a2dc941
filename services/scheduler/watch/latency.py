"""Quantiles of a few latencies."""

from collections.abc import Sequence

import numpy as np

from quire.internal.v1 import scheduler_pb2 as pb


def latency(samples: Sequence[tuple[float, int]]) -> pb.Latency:
    """Median and 95th percentile.

    Args:
        samples: seconds, and how often they count, at least once.
    """
    if not samples:
        return pb.Latency()
    seconds, counts = np.array(sorted(samples)).T
    ranks = np.cumsum(counts)
    p50, p95 = (seconds[np.searchsorted(ranks, share * ranks[-1])] for share in (0.5, 0.95))
    return pb.Latency(count=int(ranks[-1]), p50_us=round(1e6 * p50), p95_us=round(1e6 * p95))
