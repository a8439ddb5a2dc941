"""The rows of a step that compute context, and which of their hidden states are wanted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.model.features.slot_feature import Arrays


@dataclass(frozen=True, slots=True, eq=False)
class ContextRows:
    """Rows of context, which come first in a step.

    Attributes:
        slots, first, num_tokens: int32 [num_context]: tokens [first, first + num_tokens) of each slot are computed.
    """

    slots: Int32Array
    first: Int32Array
    num_tokens: Int32Array

    def spans(self) -> list[tuple[int, int, int, int]]:
        """(slot, first, num_tokens, begin) of each row; `begin`: its first token among the step's new tokens."""
        begins = np.cumsum(self.num_tokens) - self.num_tokens
        return list(
            zip(self.slots.tolist(), self.first.tolist(), self.num_tokens.tolist(), begins.tolist(), strict=True)
        )


@dataclass(frozen=True, slots=True, eq=False)
class StateRows:
    """The hidden states that a step needs beside those of its sampling rows; tensors are on the device.

    Attributes:
        states: int64 [num_states], ascending: new tokens of the step.
        sampling: int64 [num_sampling]: which of the states the sampling rows use.
    """

    states: Tensor
    sampling: Tensor


def state_arrays(last_tokens: NDArray[np.int64], *wanted: NDArray[np.int64]) -> tuple[Arrays, list[NDArray[np.int64]]]:
    """`StateRows` as arrays, of the sampling rows' tokens and the wanted ones; and where the latter are among them."""
    states = np.unique(np.concatenate((last_tokens, *wanted)))
    arrays: Arrays = {"states": states, "sampling": np.searchsorted(states, last_tokens)}
    return arrays, [np.searchsorted(states, tokens) for tokens in wanted]
