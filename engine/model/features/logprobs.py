"""Log-probabilities of a step's rows: which are wanted, and what came."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.logprobs import PackedLogprobs
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, SlotFeature
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


class SlotLogprobs(SlotFeature[LogprobRows]):
    """How many of the most likely tokens each slot wants."""

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._num_top = np.zeros(num_slots, np.int32)

    def wants(self, params: SamplingParams) -> bool:
        return params.logprobs is not None

    def start(self, start: SequenceStart) -> None:
        self._num_top[start.slot] = min(start.sampling.logprobs or 0, self._vocab_size)

    def arrays(self, step: FeatureStep) -> Arrays:
        return {"rows": step.rows}

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> LogprobRows:
        return LogprobRows(there["rows"], step.slots, self._num_top[step.slots])


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
