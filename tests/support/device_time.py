"""How long a GPU takes."""

import statistics
from collections.abc import Callable

import torch


def microseconds(call: Callable[[], object]) -> float:
    """Median of the device's times of a graph, so that the host's launches do not count; also, nothing synchronises."""
    call()
    torch.cuda.synchronize()
    graph, times = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        call()
    for _ in range(25):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) * 1e3)
    return statistics.median(times)
