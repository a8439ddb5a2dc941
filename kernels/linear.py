"""Products with a constant matrix, which a backend may lay out anew.

weight      [out, in], of the dtype of x, or codes: see `quire.kernels.coded_weight`
bias        [out] or None
x           [num_tokens, in]; rows contiguous
result      [num_tokens, out]
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from quire.kernels.coded_linear import CodedLinear
from quire.kernels.coded_weight import CodedWeight, Weight


class Linear(Protocol):
    """x @ weight.T + bias, summed in float32 or better."""

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, out] of x, [num_tokens, in]."""


class LinearMaker(Protocol):
    """Takes a matrix into a backend's own layout."""

    def __call__(self, weight: Weight, bias: Tensor | None, out_dtype: torch.dtype) -> Linear:
        """The layer whose results have `out_dtype`: that of x, or float32. It may or may not keep
        `weight` and `bias`, which must not change any more."""


@dataclass(frozen=True, slots=True, eq=False)
class TorchLinear:
    """Implements `Linear`."""

    weight: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias).to(self.out_dtype)


def torch_linear(weight: Weight, bias: Tensor | None, out_dtype: torch.dtype) -> Linear:
    """A `LinearMaker`: the reference."""
    if isinstance(weight, CodedWeight):
        return CodedLinear(weight, bias, out_dtype)
    return TorchLinear(weight, bias, out_dtype)
