"""Products with 4- and 8-bit integers in Triton, which reads codes as they lie, of up to `_MOST_ROWS` rows. For more,
the matrix becomes numbers first.

    codes    8 bits: int8 [out, in]
             4 bits: uint8 [out, in / 2], from 0 to 15: of 2 * span columns the first half in the lower bits, the second
             in the upper
    scales   float32 [groups, out]
    offsets  [groups, out] of the type of the rows: the zeros' negatives, of 4 bits less what `nibbles` adds

Differences of a code and its zero are exact in the type of the rows. The sum of columns that share a scale is scaled in
float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.coded_weight import INT4_HALF, CodedWeight
from quire.kernels.cuda.integer_row import integer_row_product
from quire.kernels.cuda.integers_widened import widened_integers
from quire.kernels.cuda.nibbles import BASES, has_assembly, nibbles
from quire.kernels.cuda.overlap import can_overlap, follow
from quire.kernels.cuda.row_product import row_product
from quire.kernels.cuda.wide_product import wide_product

_MOST_ROWS: Final = 64
# Scales of smaller ones take so long that several rows are multiplied by numbers.
_LEAST_GROUP: Final = 128
_LEAST_ROWS: Final = 16
# Bytes of a row that are multiplied at once, all of one group, by the bits of a code.
_SPANS: Final[Mapping[int, Sequence[int]]] = MappingProxyType({8: (128, 64, 32), 4: (64, 32, 16)})
# By the bits of a code: with it, no offset, and no difference from a code, has more bits than bfloat16.
_LARGEST_ZERO: Final[Mapping[int, int]] = MappingProxyType({8: 128, 4: 120})


@dataclass(frozen=True, slots=True)
class _Tile:
    """What a program computes.

    Attributes:
        outs: results.
        is_swapped: whether tensor cores take the matrix as their first operand, of which they want 64 rows.
    """

    outs: int
    warps: int
    stages: int
    is_swapped: bool


# Of 8 bits, of 4 bits, and of 4 bits and more than `_FEW_ROWS` rows.
_TILE: Final = _Tile(32, warps=4, stages=5, is_swapped=False)
_NIBBLE_TILE: Final = _Tile(32, warps=4, stages=3, is_swapped=False)
_TALL_NIBBLE_TILE: Final = _Tile(64, warps=4, stages=3, is_swapped=True)
_FEW_ROWS: Final = 16


@triton.jit
def _add_product(x, numbers, scale, sums, is_plain: tl.constexpr, is_swapped: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of rows and some columns of the matrix, all of one group."""
    if is_swapped:
        x, numbers, scale = numbers, x, scale[:, None]
    else:
        scale = scale[None, :]
    if is_plain:
        sums = tl.dot(x, tl.trans(numbers), sums, input_precision="ieee")
    else:
        sums += tl.dot(x, tl.trans(numbers), input_precision="ieee") * scale
    return sums


@triton.jit
def _integers_kernel(  # type: ignore[no-untyped-def]
    x_ptr, codes_ptr, scales_ptr, offsets_ptr, bias_ptr, y_ptr, num_rows, x_stride, size, out, group,
    has_bias: tl.constexpr, is_plain: tl.constexpr, bits: tl.constexpr,
    with_assembly: tl.constexpr, is_swapped: tl.constexpr, overlaps: tl.constexpr, rows: tl.constexpr,
    outs: tl.constexpr, span: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    row, result, lane = tl.arange(0, rows), tl.program_id(0) * outs + tl.arange(0, outs), tl.arange(0, span)
    # The last program reads the last row of the matrix again where there are no more.
    is_row, there = (row < num_rows)[:, None], tl.minimum(result, out - 1)
    columns: tl.constexpr = span * 8 // bits
    codes_at = codes_ptr + there.to(tl.int64)[:, None] * (size * bits // 8) + lane[None, :]
    x_at = x_ptr + row.to(tl.int64)[:, None] * x_stride + lane[None, :]
    scales_at, offsets_at = scales_ptr + there, offsets_ptr + there
    follow(overlaps)
    sums = tl.zeros([outs, rows] if is_swapped else [rows, outs], tl.float32)
    scale, offset = tl.load(scales_at), tl.load(offsets_at)
    for start in tl.range(0, size, columns, num_stages=stages):
        codes = tl.load(codes_at + start * bits // 8)
        x = tl.load(x_at + start, mask=is_row, other=0.0)
        next_scale, next_offset = scale, offset
        if not is_plain:
            # Of the next step, where nobody waits for them: loads that no product takes are not pipelined.
            behind = tl.minimum(start + columns, size - columns) // group * out
            next_scale, next_offset = tl.load(scales_at + behind), tl.load(offsets_at + behind)
        if bits == 8:
            numbers = codes.to(x.dtype)
            if not is_plain:
                numbers += offset[:, None]
            sums = _add_product(x, numbers, scale, sums, is_plain, is_swapped)
        else:
            lower, upper = nibbles(codes, offset[:, None], with_assembly)
            sums = _add_product(x, lower, scale, sums, False, is_swapped)
            x = tl.load(x_at + start + span, mask=is_row, other=0.0)
            sums = _add_product(x, upper, scale, sums, False, is_swapped)
        scale, offset = next_scale, next_offset
    if is_swapped:
        sums = tl.trans(sums)
    if is_plain:
        sums *= scale[None, :]
    if has_bias:
        sums += tl.load(bias_ptr + there).to(tl.float32)[None, :]
    y_at = y_ptr + row.to(tl.int64)[:, None] * out + result[None, :]
    tl.store(y_at, sums.to(y_ptr.dtype.element_ty), mask=is_row & (result < out)[None, :])


@dataclass(frozen=True, slots=True, eq=False)
class IntegerLinear:
    """Implements `Linear`.

    Attributes:
        codes, scales, offsets: as the module says.
        bits: of a code.
        span: bytes that are multiplied at once.
        dtype: of what is multiplied with it.
        is_plain: whether each row has one scale, and no zero; of 8 bits only.
        most_rows: that are multiplied with the codes.
    """

    codes: Tensor
    scales: Tensor
    offsets: Tensor
    bits: int
    span: int
    dtype: torch.dtype
    is_plain: bool
    most_rows: int
    bias: Tensor | None
    out_dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        num_rows, out, size = len(x), len(self.codes), self.codes.shape[1] * 8 // self.bits
        if num_rows > self.most_rows:
            return wide_product(x, self.widened(), self.bias, self.out_dtype)
        if num_rows == 1 and self.is_plain:
            return row_product(x, self.codes, self.bias, self.out_dtype, self.scales)
        if num_rows == 1 and self.bits == 4:
            return integer_row_product(x, self.codes, self.scales, self.offsets, self.span, self.bias, self.out_dtype)
        y = torch.empty(num_rows, out, dtype=self.out_dtype, device=x.device)
        if num_rows:
            overlaps, group = can_overlap(x), size // len(self.scales)
            tile = _TILE if self.bits == 8 else _NIBBLE_TILE if num_rows <= _FEW_ROWS else _TALL_NIBBLE_TILE
            _integers_kernel[(triton.cdiv(out, tile.outs),)](
                x, self.codes, self.scales, self.offsets, x if self.bias is None else self.bias, y, num_rows,
                x.stride(0), size, out, group, self.bias is not None, self.is_plain, self.bits,
                has_assembly(x), tile.is_swapped, overlaps, max(_LEAST_ROWS, triton.next_power_of_2(num_rows)),
                tile.outs, self.span, tile.stages, num_warps=tile.warps, launch_pdl=overlaps,
            )  # fmt: skip
        return y

    def widened(self) -> Tensor:
        """[out, in]."""
        return widened_integers(self.codes, self.scales, self.offsets, self.bits, self.span)


def integer_linear(weight: CodedWeight, bias: Tensor | None, out_dtype: torch.dtype) -> IntegerLinear | None:
    """None where the codes are no integers, their zeros are not, or no span fits their groups."""
    if weight.codes.dtype != torch.int8 or weight.dtype.itemsize != 2:
        return None
    bits = weight.bits
    spans = (span for span in _SPANS[bits] if weight.group % (span * 8 // bits) == 0)
    zeros = torch.zeros_like(weight.scales) if weight.zeros is None else weight.zeros
    span, codes = next(spans, None), weight.codes
    if span is None or bool(((zeros != zeros.round()) | (zeros.abs() > _LARGEST_ZERO[bits])).any()):
        return None
    if bits == 4:
        halves = (codes + INT4_HALF).to(torch.uint8).view(len(codes), -1, 2, span)
        codes, zeros = (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1), zeros + INT4_HALF + BASES[weight.dtype]
    most_rows = _MOST_ROWS if weight.group >= _LEAST_GROUP else 1
    return IntegerLinear(
        codes.contiguous(), weight.scales.float().T.contiguous(), (-zeros).to(weight.dtype).T.contiguous(), bits, span,
        weight.dtype, weight.is_plain and bits == 8, most_rows, bias, out_dtype,
    )  # fmt: skip
