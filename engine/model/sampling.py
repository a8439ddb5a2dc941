"""The `SlotSampling`: how each slot draws."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.step import SequenceStart
from quire.kernels.sampling import SamplingRows


class SlotSampling:
    """Temperatures, filters and seeds on the host, as arrays over all slots."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self._temperature = np.zeros(num_slots, np.float32)
        self._top_k = np.zeros(num_slots, np.int64)
        self._top_p = np.ones(num_slots, np.float32)
        self._min_p = np.zeros(num_slots, np.float32)
        self._seed = np.zeros(num_slots, np.uint64)
        whole, real = (torch.empty(0, dtype=dtype, device=device) for dtype in (torch.int64, torch.float32))
        self._all_greedy = SamplingRows(whole, real, whole, whole, real, real, whole, whole)

    def start(self, start: SequenceStart) -> None:
        """A sequence takes a slot."""
        slot = start.slot
        self._temperature[slot] = start.temperature
        self._top_k[slot] = start.top_k
        self._top_p[slot] = start.top_p
        self._min_p[slot] = start.min_p
        self._seed[slot] = start.seed

    def arrays(self, slots: Int32Array, num_tokens: Int32Array) -> dict[str, NDArray[Any]]:
        """`SamplingRows` of a step in which these slots sample, as arrays; nothing where every row is greedy.

        Args:
            num_tokens: of every slot.
        """
        drawn = np.flatnonzero(self._temperature[slots] > 0)
        if not len(drawn):
            return {}
        slots = slots[drawn]
        filters = (self._top_k[slots] > 0) | (self._top_p[slots] < 1) | (self._min_p[slots] > 0)
        filtered = np.flatnonzero(filters)
        return {
            "drawn": drawn,
            "temperature": self._temperature[slots],
            "filtered": filtered,
            "top_k": self._top_k[slots[filtered]],
            "top_p": self._top_p[slots[filtered]],
            "min_p": self._min_p[slots[filtered]],
            "seed": self._seed[slots].view(np.int64),
            "position": num_tokens[slots].astype(np.int64),
        }

    def rows(self, there: Mapping[str, Tensor]) -> SamplingRows:
        """The step's rows, from these arrays on the device."""
        if "drawn" not in there:
            return self._all_greedy
        return SamplingRows(**{field.name: there[field.name] for field in fields(SamplingRows)})
