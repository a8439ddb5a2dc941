"""One row times a matrix of 4-bit integers in Triton; as `row_product`, bound by the bytes of the matrix."""

import math
from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.nibbles import has_assembly, nibbles
from quire.kernels.cuda.overlap import can_overlap, follow

# Of one program and step: results, at most so many runs of bytes that share a scale, and bytes of a run; one warp.
_OUTS: Final = 4
_MOST_RUNS: Final = 16
_RUN: Final = 16
_STAGES: Final = 3


@triton.jit
def _integer_row_kernel(  # type: ignore[no-untyped-def]
    x_ptr, codes_ptr, scales_ptr, offsets_ptr, bias_ptr, y_ptr, row_bytes, out, group, has_bias: tl.constexpr,
    with_assembly: tl.constexpr, overlaps: tl.constexpr, outs: tl.constexpr,
    runs: tl.constexpr, run: tl.constexpr, span: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    result = tl.program_id(0) * outs + tl.arange(0, outs)
    # The last program reads the last row of the matrix again where there are no more.
    there = tl.minimum(result, out - 1)
    first, lane = tl.arange(0, runs) * run, tl.arange(0, run)
    codes_at = codes_ptr + there.to(tl.int64)[:, None, None] * row_bytes + (first[:, None] + lane[None, :])[None, :, :]
    sums = tl.zeros([outs, runs], tl.float32)
    follow(overlaps)
    for start in tl.range(0, row_bytes, runs * run, num_stages=stages):
        codes = tl.load(codes_at + start)
        column = (start + first) // span * (2 * span) + (start + first) % span
        x_at = x_ptr + column[:, None] + lane[None, :]
        at = (column // group * out)[None, :] + there[:, None]
        scale, offset = tl.load(scales_ptr + at), tl.load(offsets_ptr + at)
        lower, upper = nibbles(codes, offset[:, :, None], with_assembly)
        lower = lower.to(tl.float32) * tl.load(x_at).to(tl.float32)[None, :, :]
        upper = upper.to(tl.float32) * tl.load(x_at + span).to(tl.float32)[None, :, :]
        sums += tl.sum(lower + upper, axis=2) * scale
    value = tl.sum(sums, axis=1)
    if has_bias:
        value += tl.load(bias_ptr + there).to(tl.float32)
    tl.store(y_ptr + result, value.to(y_ptr.dtype.element_ty), mask=result < out)


def integer_row_product(
    x: Tensor, codes: Tensor, scales: Tensor, offsets: Tensor, span: int, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """x @ weight.T + bias, [1, out]; codes, scales, offsets and span as of `quire.kernels.cuda.integers`.

    Args:
        x: [1, in], contiguous.
    """
    out, row_bytes = codes.shape
    group, overlaps, runs = 2 * row_bytes // len(scales), can_overlap(x), math.gcd(_MOST_RUNS, row_bytes // _RUN)
    y = torch.empty(1, out, dtype=out_dtype, device=x.device)
    _integer_row_kernel[(triton.cdiv(out, _OUTS),)](
        x, codes, scales, offsets, x if bias is None else bias, y, row_bytes, out, group, bias is not None,
        has_assembly(x), overlaps, _OUTS, runs, _RUN, span, _STAGES,
        num_warps=1, launch_pdl=overlaps,
    )  # fmt: skip
    return y
