"""On an NVIDIA GPU: cuBLAS, and a kernel of our own for one row."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quire.kernels.cuda.row_product import row_product


@dataclass(frozen=True, slots=True, eq=False)
class CudaLinear:
    """Implements `Linear`. Results that are to be wider than the weight are never rounded to its type."""

    weight: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == 1 and self.weight.dtype.itemsize == 2:
            return row_product(x, self.weight, self.bias, self.out_dtype)
        if self.out_dtype == self.weight.dtype:
            return functional.linear(x, self.weight, self.bias)
        product = torch.mm(x, self.weight.T, out_dtype=self.out_dtype)
        return product if self.bias is None else product + self.bias
