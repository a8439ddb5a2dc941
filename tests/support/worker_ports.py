"""Ports of loopback for one of several processes that run tests.

Between the draw of a port and whoever listens there, seconds may pass. The system would give the same port to others
meanwhile, or to a connection.
"""

import socket
from itertools import cycle

from quire.services.up.ports import LOOPBACK

# Below those that the system gives out by itself.
FIRST, BEHIND_LAST = 10_000, 32_000


class WorkerPorts:
    """Every call is a port of the worker's own range on which nothing listens now.

    Args:
        worker: number of the process, from 0.
        count: of these processes.
    """

    def __init__(self, worker: int, count: int) -> None:
        size = (BEHIND_LAST - FIRST) // count
        self._ports = cycle(range(FIRST + worker * size, FIRST + (worker + 1) * size))

    def __call__(self) -> int:
        while True:
            port = next(self._ports)
            with socket.socket() as probe:
                try:
                    probe.bind((LOOPBACK, port))
                except OSError:
                    continue
                return port
