"""The `SlotTypical`: locally typical sampling (Meister et al., "Locally Typical Sampling", 2022).

Of the distribution at the row's temperature, tokens whose information is nearest to its entropy are kept until they
have the mass that was asked for; those that are as near as the last of them stay, too. The rule is that of
`transformers.TypicalLogitsWarper`, which comes there behind top_k and top_p, here before them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, LogitsProcessor
from quire.engine.step import SequenceStart
from quire.kernels.sampling import scale


@dataclass(frozen=True, slots=True, eq=False)
class TypicalRows:
    """Rows that keep typical tokens; tensors are on the logits' device.

    Attributes:
        rows: int64 [n], distinct.
        mass, temperature: float32 [n].
    """

    rows: Tensor
    mass: Tensor
    temperature: Tensor


class SlotTypical(LogitsProcessor[TypicalRows]):
    """Masses and temperatures by slot. A greedy row takes the most likely token, typical or not."""

    def __init__(self, num_slots: int) -> None:
        self._mass = np.ones(num_slots, np.float32)
        self._temperature = np.ones(num_slots, np.float32)

    def wants(self, params: SamplingParams) -> bool:
        return params.typical_p < 1 and params.temperature > 0

    def start(self, start: SequenceStart) -> None:
        self._mass[start.slot] = start.sampling.typical_p
        self._temperature[start.slot] = start.sampling.temperature

    def arrays(self, step: FeatureStep) -> Arrays:
        return {"rows": step.rows, "mass": self._mass[step.slots], "temperature": self._temperature[step.slots]}

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> TypicalRows:
        return TypicalRows(there["rows"], there["mass"], there["temperature"])

    def process(self, logits: Tensor, rows: TypicalRows) -> None:
        x = logits[rows.rows]
        logprobs = scale(x, rows.temperature).log_softmax(dim=-1)
        probs = logprobs.exp()
        entropy = -(logprobs * probs).nansum(dim=-1, keepdim=True)
        distance = (-logprobs - entropy).abs()
        nearest, order = distance.sort(dim=-1)
        mass = probs.gather(-1, order).cumsum(dim=-1, dtype=torch.float64)
        last = (mass < rows.mass.unsqueeze(-1)).sum(dim=-1, keepdim=True).clamp_(max=x.shape[-1] - 1)
        logits[rows.rows] = x.masked_fill(distance > nearest.gather(-1, last), -torch.inf)
