"""PyTorch's own product, on any device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, eq=False)
class TorchLinear:
    """Implements `Linear`."""

    weight: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias).to(self.out_dtype)
