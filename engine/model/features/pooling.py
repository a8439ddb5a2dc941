"""Pooling: the hidden states of a prompt's tokens as one vector.

Each way is a weighted sum: of all states alike, of the last one, or of the first. States are those behind the model's
last norm.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.api.pooling import Pooling
from quire.engine.arrays import Int32Array
from quire.engine.embeddings import PackedEmbeddings
from quire.engine.model.features.context_rows import ContextRows
from quire.engine.model.features.slot_feature import Arrays
from quire.engine.step import SequenceStart


@dataclass(frozen=True, slots=True, eq=False)
class PooledPlaces:
    """What a step must pool, on the host.

    Attributes:
        tokens: int64 [n]: new tokens of the step, ascending.
        arrays: `slots`, int64 [n], and `weights`, float32 [n], of these tokens; `begun` and `ended`, int64: slots whose
            prompts begin and end in the step.
        ended: int32: the latter.
    """

    tokens: NDArray[np.int64]
    arrays: Arrays
    ended: Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class PooledTokens:
    """The same on the device.

    Attributes:
        rows: int64 [n]: which of the step's states.
        slots, weights, begun, ended: as in `PooledPlaces.arrays`.
        ended_slots: int32, on the host.
    """

    rows: Tensor
    slots: Tensor
    weights: Tensor
    begun: Tensor
    ended: Tensor
    ended_slots: Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class PooledVectors:
    """Vectors of prompts that ended in a step.

    Attributes:
        slots: int32 [n], on the host.
        vectors: float32 [n, hidden_size].
    """

    slots: Int32Array
    vectors: Tensor

    def packed(self) -> PackedEmbeddings:
        """On the host."""
        return PackedEmbeddings(self.slots, self.vectors.numpy().ravel())


class SlotPooling:
    """Which slots want a vector, and their sums so far on the device."""

    def __init__(self, num_slots: int) -> None:
        self._wanted: dict[int, Pooling] = {}
        self._num_slots = num_slots
        self._num_prompt = np.zeros(num_slots, np.int32)
        # Made when the first prompt is pooled.
        self._sums: Tensor | None = None

    def reset(self) -> None:
        """Forget every slot."""
        self._wanted.clear()

    def start(self, start: SequenceStart) -> None:
        """A sequence takes a slot."""
        self._wanted.pop(start.slot, None)
        if start.sampling.pooling is not Pooling.NONE:
            self._wanted[start.slot] = start.sampling.pooling
            self._num_prompt[start.slot] = start.num_prompt

    def places(self, context: ContextRows) -> PooledPlaces | None:
        """What a step must pool; None: nothing."""
        if not self._wanted:
            return None
        spans = [span for span in context.spans() if span[0] in self._wanted]
        if not spans:
            return None
        tokens, slots, weights, begun, ended = [], [], [], [], []
        for slot, first, count, begin in spans:
            num_prompt = int(self._num_prompt[slot])
            positions = np.arange(first, min(first + count, num_prompt))
            weight = self._weights(slot, positions, num_prompt)
            kept = np.flatnonzero(weight)
            tokens.append(begin + kept)
            slots.append(np.full(len(kept), slot, np.int64))
            weights.append(weight[kept])
            if first == 0:
                begun.append(slot)
            if first < num_prompt <= first + count:
                ended.append(slot)
        arrays: Arrays = {
            "slots": np.concatenate(slots),
            "weights": np.concatenate(weights),
            "begun": np.array(begun, np.int64),
            "ended": np.array(ended, np.int64),
        }
        return PooledPlaces(np.concatenate(tokens), arrays, np.array(ended, np.int32))

    def pool(self, hidden: Tensor, pooled: PooledTokens) -> PooledVectors:
        """Adds the step's hidden states, [num_states, hidden_size]; vectors of the prompts that end with it."""
        if self._sums is None:
            self._sums = torch.zeros(self._num_slots, hidden.shape[1], device=hidden.device)
        self._sums.index_fill_(0, pooled.begun, 0)
        self._sums.index_add_(0, pooled.slots, hidden[pooled.rows].float() * pooled.weights.unsqueeze(-1))
        return PooledVectors(pooled.ended_slots, self._sums[pooled.ended])

    def _weights(self, slot: int, positions: NDArray[np.int64], num_prompt: int) -> NDArray[np.float32]:
        pooling = self._wanted[slot]
        if pooling is Pooling.MEAN:
            return np.full(len(positions), 1 / num_prompt, np.float32)
        only = 0 if pooling is Pooling.CLS else num_prompt - 1
        weights: NDArray[np.float32] = (positions == only).astype(np.float32)
        return weights


def pooled_tokens(places: PooledPlaces, there: Mapping[str, Tensor], rows: Tensor) -> PooledTokens:
    """On the device, with the places of its tokens among the step's states."""
    return PooledTokens(rows=rows, ended_slots=places.ended, **there)
