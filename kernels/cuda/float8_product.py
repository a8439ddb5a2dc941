"""Products of up to `most_rows` rows in e4m3 with a matrix in e4m3, in Triton; each row and each result has a scale.

So few rows are bound by the bytes of the matrix, which cuBLASLt and CUTLASS read at half the memory's rate.
"""

from dataclasses import dataclass
from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.overlap import can_overlap, follow

_MOST_ROWS: Final = 128
_LEAST_ROWS: Final = 16
# Of shared memory for a program, as Hopper and the Blackwell of data centres have it; Ada has less than half.
_SHARED_BYTES: Final = 227 << 10


@dataclass(frozen=True, slots=True)
class _Tile:
    """What a program computes.

    Attributes:
        outs, chunk: results, and numbers of one step.
        is_swapped: whether tensor cores take the matrix as their first operand, of which they want 64 rows.
    """

    outs: int
    chunk: int
    warps: int
    stages: int
    is_swapped: bool


_TILE: Final = _Tile(64, 256, warps=8, stages=4, is_swapped=True)
# Of more than `_FEW_ROWS` rows where the other tile gives too few programs: on an H200 a layer of Llama-3.1-8B took
# 72 µs instead of 84 for 64 rows.
_SMALL_TILE: Final = _Tile(32, 256, warps=4, stages=5, is_swapped=False)
_FEW_PROGRAMS: Final = 80
_FEW_ROWS: Final = 32


@triton.jit
def _float8_product_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, row_scales_ptr, scales_ptr, bias_ptr, y_ptr, num_rows, size, out, has_bias: tl.constexpr,
    is_even: tl.constexpr, is_swapped: tl.constexpr, overlaps: tl.constexpr, rows: tl.constexpr, outs: tl.constexpr,
    chunk: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    row, result, lane = tl.arange(0, rows), tl.program_id(0) * outs + tl.arange(0, outs), tl.arange(0, chunk)
    is_row, is_result = row < num_rows, result < out
    # The last program reads the last row of the matrix again where there are no more.
    there = tl.minimum(result, out - 1)
    weight_at = weight_ptr + there.to(tl.int64)[:, None] * size + lane[None, :]
    x_at = x_ptr + row[:, None] * size + lane[None, :]
    follow(overlaps)
    sums = tl.zeros([outs, rows] if is_swapped else [rows, outs], tl.float32)
    for start in tl.range(0, size, chunk, num_stages=stages):
        inside = None if is_even else (lane < size - start)[None, :]
        weight = tl.load(weight_at + start, mask=inside, other=None if is_even else 0.0)
        x = tl.load(x_at + start, mask=is_row[:, None] if is_even else is_row[:, None] & inside, other=0.0)
        sums = tl.dot(weight, tl.trans(x), sums) if is_swapped else tl.dot(x, tl.trans(weight), sums)
    if is_swapped:
        sums = tl.trans(sums)
    sums *= tl.load(row_scales_ptr + row, mask=is_row, other=0.0)[:, None] * tl.load(scales_ptr + there)[None, :]
    if has_bias:
        sums += tl.load(bias_ptr + there).to(tl.float32)[None, :]
    y_at = y_ptr + row[:, None] * out + result[None, :]
    tl.store(y_at, sums.to(y_ptr.dtype.element_ty), mask=is_row[:, None] & is_result[None, :])


def most_rows(device: torch.device) -> int:
    """Rows that the device computes at once."""
    if device.type != "cuda":
        return _MOST_ROWS
    properties = triton.runtime.driver.active.utils.get_device_properties(device.index or 0)
    return _MOST_ROWS if properties["max_shared_mem"] >= _SHARED_BYTES else 0


def float8_product(
    x: Tensor, row_scales: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """(x * row_scales) @ weight.T * scales + bias, [num_rows, out], summed in float32.

    Args:
        x: float8_e4m3fn [num_rows, in], contiguous; at most `most_rows` rows.
        row_scales: float32 [num_rows, 1].
        weight: float8_e4m3fn [out, in], contiguous.
        scales: float32 [1, out].
        bias: [out] or None.
    """
    num_rows, out, size = len(x), *weight.shape
    y, overlaps = torch.empty(num_rows, out, dtype=out_dtype, device=x.device), can_overlap(x)
    if num_rows:
        rows = max(_LEAST_ROWS, triton.next_power_of_2(num_rows))
        tile = _SMALL_TILE if num_rows > _FEW_ROWS and triton.cdiv(out, _TILE.outs) < _FEW_PROGRAMS else _TILE
        _float8_product_kernel[(triton.cdiv(out, tile.outs),)](
            x, weight, row_scales, scales, x if bias is None else bias, y, num_rows, size, out, bias is not None,
            size % tile.chunk == 0, tile.is_swapped, overlaps, rows, tile.outs, tile.chunk, tile.stages,
            num_warps=tile.warps, launch_pdl=overlaps,
        )  # fmt: skip
    return y
