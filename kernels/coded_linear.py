"""Products with a matrix of narrow codes: the reference, for any device. Widens the whole matrix at every call."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quire.kernels.coded_weight import CodedWeight


@dataclass(frozen=True, slots=True, eq=False)
class CodedLinear:
    """Implements `Linear`."""

    weight: CodedWeight
    bias: Tensor | None
    out_dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        weight = self.weight
        if weight.is_plain:
            product = functional.linear(x.float(), weight.codes.float()) * weight.scales[:, 0]
        else:
            product = functional.linear(x.float(), weight.widened(torch.float32))
        return (product if self.bias is None else product + self.bias).to(self.out_dtype)
