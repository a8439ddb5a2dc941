"""One row times a matrix in Triton.

Such a product is bound by the bytes of the matrix. A program reads a few rows of it as they lie, multiplies without
tensor cores and adds up in float32.
"""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.overlap import can_overlap, follow

# Of the matrix, of one program and step: one warp, whose loads are issued two steps ahead. Larger programs were as fast
# for single matrices of an 8B model on an H100, but not for all.
_COLUMNS: Final = 4
_CHUNK: Final = 512
_STAGES: Final = 3


@triton.jit
def _row_product_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, bias_ptr, scale_ptr, out_ptr, width, depth, has_bias: tl.constexpr,
    has_scale: tl.constexpr, is_even: tl.constexpr,
    overlaps: tl.constexpr, columns: tl.constexpr, chunk: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    inside = column < width
    lane = tl.arange(0, chunk)
    # The last program reads the last row again where there are no more: a mask costs a tenth of the time.
    row = tl.minimum(column, width - 1)[:, None]
    place = weight_ptr + row.to(tl.int64) * depth + lane[None, :]
    total = tl.zeros([columns, chunk], tl.float32)
    follow(overlaps)
    for start in tl.range(0, depth, chunk, num_stages=stages):
        there = None if is_even else lane < depth - start
        also = None if is_even else (lane < depth - start)[None, :]
        other = None if is_even else 0.0
        x = tl.load(x_ptr + start + lane, mask=there, other=other).to(tl.float32)
        total += tl.load(place + start, mask=also, other=other).to(tl.float32) * x[None, :]
    value = tl.sum(total, axis=1)
    if has_scale:
        value *= tl.load(scale_ptr + column, mask=inside, other=0.0)
    if has_bias:
        value += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + column, value.to(out_ptr.dtype.element_ty), mask=inside)


def row_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype, scales: Tensor | None = None
) -> Tensor:
    """x @ weight.T * scales + bias, [1, out].

    Args:
        x: [1, in], contiguous.
        weight: [out, in], contiguous; of any type that is narrower than float32.
        scales: float32 [1, out]; None: all 1.
        out_dtype: what the sum is rounded to.
    """
    width, depth = weight.shape
    out = torch.empty((1, width), dtype=out_dtype, device=x.device)
    overlaps = can_overlap(x)
    _row_product_kernel[(triton.cdiv(width, _COLUMNS),)](
        x, weight, weight if bias is None else bias, x if scales is None else scales, out, width, depth,
        bias is not None, scales is not None, depth % _CHUNK == 0,
        overlaps, _COLUMNS, _CHUNK, _STAGES, num_warps=1, launch_pdl=overlaps,
    )  # fmt: skip
    return out
