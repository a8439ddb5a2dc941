"""In Triton: one program per row, or per head of a row; the arithmetic is float32. Rows are rounded to e4m3, too, where
a product wants them."""

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.float8_rows import RowRounder, float8_code, float8_scale
from quire.kernels.cuda.overlap import can_overlap, follow


@triton.jit
def _rms_norm_kernel(  # type: ignore[no-untyped-def]
    x_ptr, residual_ptr, weight_ptr, out_ptr, total_ptr, codes_ptr, scales_ptr, x_stride, head_stride, num_heads, size,
    eps, has_residual: tl.constexpr, has_codes: tl.constexpr, overlaps: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, block)
    inside = column < size
    place = (row * num_heads + head).to(tl.int64) * size + column
    follow(overlaps)
    x_place = x_ptr + row.to(tl.int64) * x_stride + head * head_stride + column
    wide = tl.load(x_place, mask=inside, other=0.0).to(tl.float32)
    if has_residual:
        # Rounded once, as the stored sum is, so that both see the same.
        wide += tl.load(residual_ptr + place, mask=inside, other=0.0).to(tl.float32)
        total = wide.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + place, total, mask=inside)
        wide = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / size + eps)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    normed = ((wide * scale).to(out_ptr.dtype.element_ty).to(tl.float32) * weight).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + place, normed, mask=inside)
    if has_codes:
        wide = normed.to(tl.float32)
        scale = float8_scale(tl.max(tl.abs(wide), axis=0))
        tl.store(scales_ptr + row, scale)
        tl.store(codes_ptr + place, float8_code(wide, scale).to(codes_ptr.dtype.element_ty), mask=inside)


def rms_norm(rounder: RowRounder, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As the reference; x is [tokens, size] or [tokens, heads, size], its last dimension contiguous."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    num_heads = x.shape[1] if x.ndim == 3 else 1
    head_stride = x.stride(1) if x.ndim == 3 else 0
    _launch(rounder, x, None, weight, out, None, x.stride(0), head_stride, num_heads, eps)
    return out


def add_rms_norm(rounder: RowRounder, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As the reference; x and residual are [tokens, size], contiguous."""
    out, total = torch.empty_like(x), torch.empty_like(x)
    _launch(rounder, x, residual, weight, out, total, x.stride(0), 0, 1, eps)
    return out, total


def _launch(
    rounder: RowRounder, x: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, total: Tensor | None,
    x_stride: int, head_stride: int, num_heads: int, eps: float,
) -> None:  # fmt: skip
    size, overlaps, room = x.shape[-1], can_overlap(x), rounder.room(out)
    if x.shape[0]:
        _rms_norm_kernel[(x.shape[0], num_heads)](
            x, x if residual is None else residual, weight, out, out if total is None else total,
            *((out, out) if room is None else room), x_stride, head_stride, num_heads, size, eps,
            residual is not None, room is not None, overlaps, triton.next_power_of_2(size),
            num_warps=min(16, max(1, triton.next_power_of_2(size) // 512)), launch_pdl=overlaps,
        )  # fmt: skip
