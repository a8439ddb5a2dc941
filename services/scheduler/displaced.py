"""Requests that ran on an executor that was lost, until all of them go on."""

import time
from dataclasses import dataclass, field

from quire.engine.sequence import Sequence


@dataclass(slots=True)
class _Loss:
    executor: str
    num_left: int
    began: float = field(default_factory=time.monotonic)


class Displaced:
    """Of all losses of executors that are not over. An executor may be lost on which a request was to go on."""

    def __init__(self) -> None:
        self._loss_of: dict[Sequence, _Loss] = {}

    def add(self, executor: str, sequences: list[Sequence]) -> None:
        """These ran on it."""
        new = [sequence for sequence in sequences if sequence not in self._loss_of]
        loss = _Loss(executor, len(new))
        for sequence in new:
            self._loss_of[sequence] = loss

    def settle(self, sequence: Sequence) -> tuple[str, float] | None:
        """It goes on or has ended: the executor and the seconds since its loss, if it was the last of that loss."""
        loss = self._loss_of.pop(sequence, None) if self._loss_of else None
        if loss is None:
            return None
        loss.num_left -= 1
        return None if loss.num_left else (loss.executor, time.monotonic() - loss.began)
