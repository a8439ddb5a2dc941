"""The seam of linear layers: built once per matrix, called once per step."""

from typing import Protocol

import torch
from torch import Tensor


class Linear(Protocol):
    """x @ weight.T + bias, summed in float32 or better."""

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, out] of x, [num_tokens, in]."""


class LinearMaker(Protocol):
    """Takes a matrix into a backend's own layout."""

    def __call__(self, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> Linear:
        """The layer whose results have `out_dtype`: that of the weight, or float32. It may or may not keep
        `weight` and `bias`, which must not change any more."""
