"""How long a step takes, on whatever computes it, and when it is over."""

import time
from abc import ABC, abstractmethod

import torch


class StepTimer(ABC):
    """Starts when it is made."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether `wait` returns at once."""

    @abstractmethod
    def stop(self) -> None:
        """The step ends with the work that was handed to the device so far."""

    @abstractmethod
    def wait(self) -> int:
        """Returns when the step is over: microseconds that it took. After `stop`."""


class HostTimer(StepTimer):
    """Timer of a device that has computed when a call returns."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._seconds = 0.0

    @property
    def is_over(self) -> bool:
        return True

    def stop(self) -> None:
        self._seconds = time.perf_counter() - self._began

    def wait(self) -> int:
        return round(self._seconds * 1e6)


class CudaTimer(StepTimer):
    """Timer of work on the current stream."""

    def __init__(self) -> None:
        self._began, self._ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._began.record()

    @property
    def is_over(self) -> bool:
        return bool(self._ended.query())  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        self._ended.record()

    def wait(self) -> int:
        self._ended.synchronize()
        milliseconds: float = self._began.elapsed_time(self._ended)
        return round(milliseconds * 1e3)
