"""Gates in Triton; the arithmetic is float32. Rows are rounded to e4m3, too, where a product wants them."""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.activation import Activation
from quire.kernels.cuda.float8_rows import RowRounder, float8_code, float8_scale
from quire.kernels.cuda.overlap import can_overlap, follow

_BLOCK: Final = 1024
# Of a program that takes a whole row, and its warps.
_ROUNDED_BLOCK: Final = 4096
_ROUNDED_WARPS: Final = 8


@triton.jit
def gate_of(gate, up, kind: tl.constexpr, alpha, limit):  # type: ignore[no-untyped-def]
    """`kind` is a `Gate`; all are up times the gate times the sigmoid of something."""
    scaled = gate
    if kind == 2:
        # 0.5 (1 + tanh(z)) is the sigmoid of 2 z, here with 2 sqrt(2 / pi) in both constants.
        scaled = gate * (1.5957691216 + 0.0713548163 * gate * gate)
    if kind == 3:
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit) + 1.0
        scaled = gate * alpha
    if kind != 1:
        scaled = tl.maximum(scaled, -87.0)  # beyond, the exponential leaves float32
    return gate / (1.0 + tl.exp(-scaled)) * up


@triton.jit
def _activation_kernel(  # type: ignore[no-untyped-def]
    gate_up_ptr, out_ptr, size, alpha, limit, kind: tl.constexpr, overlaps: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    inside = column < size
    follow(overlaps)
    value = _gated(gate_up_ptr + row * 2 * size + column, inside, size, alpha, limit, kind)
    tl.store(out_ptr + row * size + column, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _rounding_kernel(  # type: ignore[no-untyped-def]
    gate_up_ptr, out_ptr, codes_ptr, scales_ptr, size, alpha, limit, kind: tl.constexpr, overlaps: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, block)
    highest = tl.zeros([block], tl.float32)
    follow(overlaps)
    for start in range(0, size, block):
        column = start + lane
        value = _gated(gate_up_ptr + row * 2 * size + column, column < size, size, alpha, limit, kind)
        value = value.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + row * size + column, value, mask=column < size)
        highest = tl.maximum(highest, tl.abs(value.to(tl.float32)))
    scale = float8_scale(tl.max(highest, axis=0))
    tl.store(scales_ptr + row, scale)
    # What is read now, another thread may have written.
    tl.debug_barrier()
    for start in range(0, size, block):
        place, inside = row * size + start + lane, start + lane < size
        value = tl.load(out_ptr + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(codes_ptr + place, float8_code(value, scale).to(codes_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gated(place, inside, size, alpha, limit, kind: tl.constexpr):  # type: ignore[no-untyped-def]
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + size, mask=inside, other=0.0).to(tl.float32)
    return gate_of(gate, up, kind, alpha, limit)


def activate(rounder: RowRounder, gate_up: Tensor, activation: Activation) -> Tensor:
    """[num_tokens, size] of [num_tokens, 2 * size], contiguous."""
    num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_tokens, size), dtype=gate_up.dtype, device=gate_up.device)
    overlaps = can_overlap(gate_up)
    numbers = (size, activation.alpha, activation.limit, int(activation.gate), overlaps)
    if (room := rounder.room(out)) is not None:
        block = min(_ROUNDED_BLOCK, triton.next_power_of_2(size))
        _rounding_kernel[(num_tokens,)](
            gate_up, out, *room, *numbers, block, num_warps=_ROUNDED_WARPS, launch_pdl=overlaps
        )
    elif num_tokens:
        grid = (num_tokens, triton.cdiv(size, _BLOCK))
        _activation_kernel[grid](gate_up, out, *numbers, _BLOCK, launch_pdl=overlaps)
    return out
