"""Products with 4- and 8-bit integers in Triton, which reads codes as they lie, of up to `_MOST_ROWS` rows. More take
longer to multiply than a matrix takes to read: it is widened first.

    codes   8 bits: int8 [out, in]
            4 bits: uint8 [out, in / 2]: of a chunk of columns the first half in the lower bits, the second in the upper
    scales  float32 [out, groups]
    zeros   int16 [out, groups]; those of 4 bits are of codes from 0 to 15

Differences of a code and its zero are exact in the type of the rows. A chunk's sum is scaled in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import triton
from torch import Tensor
from torch.nn import functional
from triton import language as tl

from quire.kernels.coded_weight import INT4_HALF, CodedWeight
from quire.kernels.cuda.row_product import row_product

_MOST_ROWS: Final = 64
# Columns that are multiplied at once, all of one group; a half is what a tile's products take at least.
_CHUNKS: Final[Sequence[int]] = (128, 64, 32)
_OUTS: Final = 32
# With it, no difference from an 8-bit code has more bits than bfloat16.
_LARGEST_ZERO: Final = 128


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    x_ptr, codes_ptr, scales_ptr, zeros_ptr, bias_ptr, y_ptr, num_rows, x_stride, size, out, groups, group,
    has_bias: tl.constexpr, bits: tl.constexpr, rows: tl.constexpr, outs: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    row, result = tl.program_id(0) * rows + tl.arange(0, rows), tl.program_id(1) * outs + tl.arange(0, outs)
    is_row, is_result = row[:, None] < num_rows, result < out
    bytes_of_chunk: tl.constexpr = chunk * bits // 8
    lane = tl.arange(0, bytes_of_chunk)
    place, at = result.to(tl.int64), row.to(tl.int64)
    codes_at = codes_ptr + place[None, :] * (size * bits // 8) + lane[:, None]
    x_at = x_ptr + at[:, None] * x_stride + lane[None, :]
    sums = tl.zeros([rows, outs], tl.float32)
    for start in range(0, size, chunk):
        scale_at = place * groups + start // group
        scale = tl.load(scales_ptr + scale_at, mask=is_result, other=0.0)[None, :]
        zero = tl.load(zeros_ptr + scale_at, mask=is_result, other=0)[None, :]
        codes = tl.load(codes_at + start * bits // 8, mask=is_result[None, :], other=0).to(tl.int16)
        x = tl.load(x_at + start, mask=is_row, other=0.0)
        first = codes if bits == 8 else codes & 15
        part = tl.dot(x, (first - zero).to(x.dtype), input_precision="ieee")
        if bits == 4:
            x = tl.load(x_at + start + bytes_of_chunk, mask=is_row, other=0.0)
            part = tl.dot(x, ((codes >> 4) - zero).to(x.dtype), part, input_precision="ieee")
        sums += part * scale
    if has_bias:
        sums += tl.load(bias_ptr + result, mask=is_result, other=0.0).to(tl.float32)[None, :]
    y_at = y_ptr + at[:, None] * out + result[None, :]
    tl.store(y_at, sums.to(y_ptr.dtype.element_ty), mask=is_row & is_result[None, :])


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLinear:
    """Implements `Linear`.

    Attributes:
        codes, scales, zeros: as the module says.
        bits: of a code.
        chunk: columns that are multiplied at once.
        dtype: of what is multiplied with it.
        is_plain: whether each row has one scale, and no zero.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    chunk: int
    dtype: torch.dtype
    is_plain: bool
    bias: Tensor | None
    out_dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        num_rows, out, size = len(x), len(self.codes), self.codes.shape[1] * 8 // self.bits
        if num_rows > _MOST_ROWS:
            return functional.linear(x, self.widened(), self.bias).to(self.out_dtype)
        if num_rows == 1 and self.is_plain and self.bits == 8:
            return row_product(x, self.codes, self.bias, self.out_dtype, self.scales)
        y = torch.empty(num_rows, out, dtype=self.out_dtype, device=x.device)
        if num_rows:
            groups, rows = self.scales.shape[1], max(16, triton.next_power_of_2(num_rows))
            _product[triton.cdiv(num_rows, rows), triton.cdiv(out, _OUTS)](
                x, self.codes, self.scales, self.zeros, self.bias if self.bias is not None else x, y, num_rows,
                x.stride(0), size, out, groups, size // groups, self.bias is not None, self.bits, rows, _OUTS,
                self.chunk,
            )  # fmt: skip
        return y

    def widened(self) -> Tensor:
        """[out, in]."""
        codes = self.codes
        if self.bits == 4:
            halves = codes.view(len(codes), -1, 1, self.chunk // 2)
            codes = torch.cat((halves & 15, halves >> 4), dim=2)
        wide = codes.view(*self.scales.shape, -1).to(self.dtype) - self.zeros[..., None].to(self.dtype)
        return (wide * self.scales[..., None]).flatten(1).to(self.dtype)


def integer_linear(weight: CodedWeight, bias: Tensor | None, out_dtype: torch.dtype) -> IntegerLinear | None:
    """None where the codes are no integers, their zeros are not, or no chunk divides their groups."""
    chunk = next((each for each in _CHUNKS if weight.group % each == 0), None)
    if weight.codes.dtype != torch.int8 or chunk is None or weight.dtype.itemsize != 2:
        return None
    zeros = torch.zeros_like(weight.scales) if weight.zeros is None else weight.zeros
    if bool(((zeros != zeros.round()) | (zeros.abs() > _LARGEST_ZERO)).any()):
        return None
    codes = weight.codes
    if weight.bits == 4:
        halves = (codes + INT4_HALF).to(torch.uint8).view(len(codes), -1, 2, chunk // 2)
        codes, zeros = (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1), zeros + INT4_HALF
    return IntegerLinear(
        codes.contiguous(), weight.scales.float().contiguous(), zeros.to(torch.int16).contiguous(), weight.bits, chunk,
        weight.dtype, weight.is_plain, bias, out_dtype,
    )  # fmt: skip
