"""One row times a matrix in Triton, with what stands around the product in a decoder block.

One row is bound by the bytes of the matrix. Each program reads a few rows of it as they lie, multiplies without tensor
cores and adds up in float32; norm, gate and residual take no kernels of their own.
"""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.overlap import can_overlap, follow

# Of the matrix, of one program and step. More or fewer were slower for each matrix of an 8B model on an H100.
_CHUNK: Final = 2048
_COLUMNS: Final = 4
_WARPS: Final = 8


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, bias_ptr, norm_ptr, residual_ptr, out_ptr, width, depth, eps, has_bias: tl.constexpr,
    has_norm: tl.constexpr, has_residual: tl.constexpr, is_gated: tl.constexpr, overlaps: tl.constexpr,
    columns: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    inside = column < width
    lane = tl.arange(0, chunk)
    place = weight_ptr + column[:, None].to(tl.int64) * depth + lane[None, :]
    up_place = weight_ptr + (column[:, None] + width).to(tl.int64) * depth + lane[None, :]
    total = tl.zeros([columns, chunk], tl.float32)
    up_total = tl.zeros([columns, chunk], tl.float32)
    squares = tl.zeros([chunk], tl.float32)
    follow(overlaps)
    for start in range(0, depth, chunk):
        there = lane < depth - start
        both = inside[:, None] & there[None, :]
        x = tl.load(x_ptr + start + lane, mask=there, other=0.0).to(tl.float32)
        if has_norm:
            squares += x * x
            x *= tl.load(norm_ptr + start + lane, mask=there, other=0.0).to(tl.float32)
        total += tl.load(place + start, mask=both, other=0.0).to(tl.float32) * x[None, :]
        if is_gated:
            up_total += tl.load(up_place + start, mask=both, other=0.0).to(tl.float32) * x[None, :]
    scale = 1.0
    if has_norm:
        scale = tl.rsqrt(tl.sum(squares, axis=0) / depth + eps)
    value = tl.sum(total, axis=1) * scale
    if has_bias:
        value += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if is_gated:
        up = tl.sum(up_total, axis=1) * scale
        if has_bias:
            up += tl.load(bias_ptr + width + column, mask=inside, other=0.0).to(tl.float32)
        value = value / (1.0 + tl.exp(-value)) * up
    if has_residual:
        value += tl.load(residual_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + column, value.to(out_ptr.dtype.element_ty), mask=inside)


def row_product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, norm: Tensor | None = None, eps: float = 0.0,
    residual: Tensor | None = None, is_gated: bool = False, out_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """x @ weight.T + bias, [1, out].

    Args:
        x: [1, in], contiguous.
        weight: [out, in], contiguous; [2 * out, in] with `is_gated`.
        norm, eps: x goes through the RMS norm of this weight, [in], first; not rounded in between.
        residual: [1, out], is added.
        is_gated: the result is silu(first half) * second half.
        out_dtype: that of x unless given.
    """
    depth, width = weight.shape[1], weight.shape[0] // (2 if is_gated else 1)
    columns = _COLUMNS // (2 if is_gated else 1)
    out = torch.empty((1, width), dtype=out_dtype or x.dtype, device=x.device)
    overlaps = can_overlap(x)
    _kernel[(triton.cdiv(width, columns),)](
        x, weight, _or(bias, x), _or(norm, x), _or(residual, x), out, width, depth, eps, bias is not None,
        norm is not None, residual is not None, is_gated, overlaps, columns, _CHUNK, num_warps=_WARPS,
        launch_pdl=overlaps,
    )  # fmt: skip
    return out


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor
