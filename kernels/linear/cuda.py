"""On an NVIDIA GPU: cuBLAS, and a kernel of our own for one row."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quire.kernels.linear.triton import row_product


@dataclass(frozen=True, slots=True, eq=False)
class CudaLinear:
    """Implements `Linear`. Wide results of narrow weights are never rounded to these."""

    weight: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype

    @property
    def is_narrow(self) -> bool:
        """Whether the weight has a type of 16 bits, which is what `row_product` is for."""
        return self.weight.dtype.itemsize == 2

    def __call__(self, x: Tensor) -> Tensor:
        if self.is_narrow and len(x) == 1:
            return row_product(x, self.weight, self.bias, out_dtype=self.out_dtype)
        if self.out_dtype == self.weight.dtype:
            return functional.linear(x, self.weight, self.bias)
        product = torch.mm(x, self.weight.T, out_dtype=self.out_dtype)
        return product if self.bias is None else product + self.bias
