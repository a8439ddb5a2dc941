"""The `SlotLogitBias`: numbers that a request adds to the logits of tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.step import SequenceStart


@dataclass(frozen=True, slots=True, eq=False)
class BiasRows:
    """One entry for each row and token that is biased; all tensors are on the logits' device.

    Attributes:
        rows, tokens: int64 [n]: places in the logits, distinct.
        bias: float32 [n].
    """

    rows: Tensor
    tokens: Tensor
    bias: Tensor


class SlotLogitBias(LogitsProcessor[BiasRows]):
    """Tokens and what is added to their logits, by slot."""

    def __init__(self) -> None:
        self._biases: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}

    def wants(self, params: SamplingParams) -> bool:
        return bool(params.logit_bias)

    def start(self, start: SequenceStart) -> None:
        # Of a token that is named twice, the last bias counts.
        tokens, biases = zip(*dict(start.sampling.logit_bias).items(), strict=True)
        self._biases[start.slot] = np.array(tokens, np.int64), np.array(biases, np.float32)

    def arrays(self, step: FeatureStep) -> Arrays:
        tokens, biases = zip(*(self._biases[slot] for slot in step.slots.tolist()), strict=True)
        return {
            "rows": np.repeat(step.rows, [len(each) for each in tokens]),
            "tokens": np.concatenate(tokens),
            "bias": np.concatenate(biases),
        }

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> BiasRows:
        return BiasRows(there["rows"], there["tokens"], there["bias"])

    def process(self, logits: Tensor, rows: BiasRows) -> None:
        logits[rows.rows, rows.tokens] += rows.bias
