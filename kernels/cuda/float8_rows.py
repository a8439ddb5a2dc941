"""Rows in e4m3 with a scale for each, in Triton: what fp8 tensor cores multiply with."""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.overlap import can_overlap, follow

LARGEST: Final = 448.0
_CHUNK: Final = 4096


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    x_ptr, codes_ptr, scales_ptr, x_stride, size, largest: tl.constexpr, overlaps: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, chunk)
    follow(overlaps)
    highest = tl.zeros([chunk], tl.float32)
    for start in range(0, size, chunk):
        inside = start + lane < size
        x = tl.load(x_ptr + row * x_stride + start + lane, mask=inside, other=0.0).to(tl.float32)
        highest = tl.maximum(highest, tl.abs(x))
    scale = tl.maximum(tl.max(highest, axis=0), 1e-12) / largest
    tl.store(scales_ptr + row, scale)
    for start in range(0, size, chunk):
        inside = start + lane < size
        x = tl.load(x_ptr + row * x_stride + start + lane, mask=inside, other=0.0).to(tl.float32)
        code = tl.minimum(tl.maximum(x / scale, -largest), largest)
        tl.store(codes_ptr + row * size + start + lane, code.to(codes_ptr.dtype.element_ty), mask=inside)


def float8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(float8_e4m3fn [num_tokens, size], float32 [num_tokens, 1]) of x, [num_tokens, size]; rows contiguous."""
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    if len(x):
        overlaps = can_overlap(x)
        chunk = min(_CHUNK, triton.next_power_of_2(x.shape[1]))
        _kernel[(len(x),)](
            x, codes, scales, x.stride(0), x.shape[1], LARGEST, overlaps, chunk, num_warps=8, launch_pdl=overlaps
        )
    return codes, scales
