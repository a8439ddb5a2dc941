"""On an NVIDIA GPU: cuBLAS and, for few rows, our own kernels; fp8 weights on fp8 tensor cores, integers in Triton."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from quire.kernels.coded_weight import CodedWeight, Weight
from quire.kernels.cuda.float8_product import float8_product, most_rows
from quire.kernels.cuda.float8_rows import RowRounder
from quire.kernels.cuda.integers import integer_linear
from quire.kernels.cuda.row_product import row_product
from quire.kernels.cuda.wide_product import wide_product
from quire.kernels.linear import Linear

# Of the first GPUs with fp8 tensor cores.
_FLOAT8_CAPABILITY: Final = (8, 9)
# What cuBLASLt wants both sizes of an fp8 matrix to be multiples of.
_FLOAT8_STEP: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class CudaLinear:
    """Implements `Linear`."""

    weight: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == 1 and self.weight.dtype.itemsize == 2:
            return row_product(x, self.weight, self.bias, self.out_dtype)
        return wide_product(x, self.weight, self.bias, self.out_dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Float8Linear:
    """Implements `Linear`: rows are rounded to e4m3, too, each with a scale of its own; one row alone is not.

    Attributes:
        codes: float8_e4m3fn [out, in].
        scales: float32 [1, out].
        rounder: of rows.
        most_rows: that our own kernel computes.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype
    rounder: RowRounder
    most_rows: int

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return row_product(x, self.codes, self.bias, self.out_dtype, self.scales)
        rows, row_scales = self.rounder(x)
        if len(x) <= self.most_rows:
            return float8_product(rows, row_scales, self.codes, self.scales, self.bias, self.out_dtype)
        # The library sums in float32, and gives bfloat16 where scales are those of rows.
        product = torch._scaled_mm(
            rows, self.codes.T, scale_a=row_scales, scale_b=self.scales, bias=self.bias, out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )  # fmt: skip
        return product.to(self.out_dtype)


def cuda_linear(rounder: RowRounder, weight: Weight, bias: Tensor | None, out_dtype: torch.dtype) -> Linear:
    """Makes what a `LinearMaker` does."""
    if not isinstance(weight, CodedWeight):
        return CudaLinear(weight, bias, out_dtype)
    if (linear := integer_linear(weight, bias, out_dtype)) is not None:
        return linear
    if _is_for_float8_cores(weight):
        rounder.expect(weight.shape[1])
        ours = most_rows(weight.codes.device)
        return Float8Linear(weight.codes, weight.scales.T.contiguous(), bias, out_dtype, rounder, ours)
    # No kernel reads these codes, and to widen them in every step would take longer than to read wide ones.
    return CudaLinear(weight.widened(), bias, out_dtype)


def _is_for_float8_cores(weight: CodedWeight) -> bool:
    is_float8 = weight.is_plain and weight.codes.dtype == torch.float8_e4m3fn and weight.dtype == torch.bfloat16
    if not is_float8 or any(size % _FLOAT8_STEP for size in weight.shape):
        return False
    return torch.cuda.get_device_capability(weight.codes.device) >= _FLOAT8_CAPABILITY
