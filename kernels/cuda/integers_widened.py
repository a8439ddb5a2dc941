"""A matrix of 4- and 8-bit integers as numbers, in Triton: for products of so many rows that this takes less time."""

import math
from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.nibbles import has_assembly, nibbles
from quire.kernels.cuda.overlap import can_overlap, follow

# Of a program: at most so many runs of bytes that share a scale, and bytes of a run.
_MOST_RUNS: Final = 64
_RUN: Final = 16


@triton.jit
def _integers_widened_kernel(  # type: ignore[no-untyped-def]
    codes_ptr, scales_ptr, offsets_ptr, wide_ptr, row_bytes, size, out, group, bits: tl.constexpr,
    with_assembly: tl.constexpr, overlaps: tl.constexpr, runs: tl.constexpr, run: tl.constexpr, span: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    first, lane = (tl.program_id(1) * runs + tl.arange(0, runs)) * run, tl.arange(0, run)
    column = first
    if bits == 4:
        column = first // span * (2 * span) + first % span
    at = column // group * out + row
    wide_at = wide_ptr + row.to(tl.int64) * size + column[:, None] + lane[None, :]
    follow(overlaps)
    codes = tl.load(codes_ptr + row.to(tl.int64) * row_bytes + first[:, None] + lane[None, :])
    scale, offset = tl.load(scales_ptr + at)[:, None], tl.load(offsets_ptr + at)[:, None]
    if bits == 4:
        lower, upper = nibbles(codes, offset, with_assembly)
        tl.store(wide_at, (lower.to(tl.float32) * scale).to(wide_ptr.dtype.element_ty))
        tl.store(wide_at + span, (upper.to(tl.float32) * scale).to(wide_ptr.dtype.element_ty))
    else:
        number = codes.to(tl.float32) + offset.to(tl.float32)
        tl.store(wide_at, (number * scale).to(wide_ptr.dtype.element_ty))


def widened_integers(codes: Tensor, scales: Tensor, offsets: Tensor, bits: int, span: int) -> Tensor:
    """[out, in] of the type of the offsets; arguments as of `quire.kernels.cuda.integers`."""
    out, row_bytes = codes.shape
    size, overlaps = row_bytes * 8 // bits, can_overlap(codes)
    wide = torch.empty(out, size, dtype=offsets.dtype, device=codes.device)
    runs = math.gcd(_MOST_RUNS, row_bytes // _RUN)
    _integers_widened_kernel[(out, row_bytes // (runs * _RUN))](
        codes, scales, offsets, wide, row_bytes, size, out, size // len(scales), bits, has_assembly(codes), overlaps,
        runs, _RUN, span, launch_pdl=overlaps,
    )  # fmt: skip
    return wide
