"""The `SlotSampling`: how each slot draws."""

from collections.abc import Mapping
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from quire.engine.api.sampling import SamplingParams
from quire.engine.model.features.slot_feature import Arrays, FeatureStep, SlotFeature
from quire.engine.step import SequenceStart
from quire.kernels.sampling import SamplingRows


class SlotSampling(SlotFeature[SamplingRows]):
    """Temperatures, filters and seeds on the host, as arrays over all slots.

    Attributes:
        all_greedy: the rows of a step in which none draws.
    """

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self._temperature = np.zeros(num_slots, np.float32)
        self._top_k = np.zeros(num_slots, np.int64)
        self._top_p = np.ones(num_slots, np.float32)
        self._min_p = np.zeros(num_slots, np.float32)
        self._seed = np.zeros(num_slots, np.uint64)
        whole, real = (torch.empty(0, dtype=dtype, device=device) for dtype in (torch.int64, torch.float32))
        self.all_greedy = SamplingRows(whole, real, whole, whole, real, real, whole, whole)

    def wants(self, params: SamplingParams) -> bool:
        return params.temperature > 0

    def start(self, start: SequenceStart) -> None:
        slot, params = start.slot, start.sampling
        self._temperature[slot] = params.temperature
        self._top_k[slot] = params.top_k
        self._top_p[slot] = params.top_p
        self._min_p[slot] = params.min_p
        self._seed[slot] = start.seed

    def arrays(self, step: FeatureStep) -> Arrays:
        slots = step.slots
        filters = (self._top_k[slots] > 0) | (self._top_p[slots] < 1) | (self._min_p[slots] > 0)
        filtered = np.flatnonzero(filters)
        return {
            "drawn": step.rows,
            "temperature": self._temperature[slots],
            "filtered": filtered,
            "top_k": self._top_k[slots[filtered]],
            "top_p": self._top_p[slots[filtered]],
            "min_p": self._min_p[slots[filtered]],
            "seed": self._seed[slots].view(np.int64),
            "position": step.num_tokens.astype(np.int64),
        }

    def rows(self, step: FeatureStep, there: Mapping[str, Tensor]) -> SamplingRows:
        return SamplingRows(**{field.name: there[field.name] for field in fields(SamplingRows)})
