"""Log-probabilities of a step's rows: which are wanted, and what came."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.logprobs import PackedLogprobs
from quire.engine.step import SequenceStart


@dataclass(frozen=True, slots=True, eq=False)
class LogprobRows:
    """The sampling rows whose sequences want log-probabilities.

    Attributes:
        rows: int64 [n], on the device: which of the rows.
        slots: int32 [n], on the host.
        num_top: int32 [n], on the host: how many of the most likely tokens each wants.
    """

    rows: Tensor
    slots: Int32Array
    num_top: Int32Array


class SlotLogprobs:
    """Which slots want log-probabilities."""

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._wanting: set[int] = set()
        self._num_top = np.zeros(num_slots, np.int32)

    def reset(self) -> None:
        """Forget every slot."""
        self._wanting.clear()

    def start(self, start: SequenceStart) -> None:
        """A sequence takes a slot."""
        self._wanting.discard(start.slot)
        if start.logprobs is not None:
            self._wanting.add(start.slot)
            self._num_top[start.slot] = min(start.logprobs, self._vocab_size)

    def arrays(self, slots: Int32Array) -> dict[str, NDArray[Any]]:
        """Arrays that `rows` needs on the device for a step in which these slots sample; usually nothing."""
        if not self._wanting:
            return {}
        rows = np.flatnonzero(np.isin(slots, list(self._wanting)))
        return {"logprobs": rows} if len(rows) else {}

    def rows(self, slots: Int32Array, there: Mapping[str, Tensor]) -> LogprobRows | None:
        """The step's rows, or None if none wants any."""
        if "logprobs" not in there:
            return None
        wanting = slots[np.isin(slots, list(self._wanting))]
        return LogprobRows(there["logprobs"], wanting, self._num_top[wanting])


@dataclass(frozen=True, slots=True, eq=False)
class RowLogprobs:
    """Log-probabilities of rows, with as many most likely tokens for each as the largest request among them.

    Attributes:
        wanted: the rows.
        values: float32 [n, 1 + max(num_top)]: of the sampled token, then of the most likely.
        top_ids: int32 [n, max(num_top)].
    """

    wanted: LogprobRows
    values: Tensor
    top_ids: Tensor

    def packed(self) -> PackedLogprobs:
        """For each row what it wants; on the host."""
        column = np.arange(self.values.shape[1])
        is_wanted = column <= self.wanted.num_top[:, None]
        values, top_ids = self.values.numpy()[is_wanted], self.top_ids.numpy()[is_wanted[:, 1:]]
        return PackedLogprobs(self.wanted.slots, self.wanted.num_top, values, top_ids)
