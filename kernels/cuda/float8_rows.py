"""Rows in e4m3 with a scale for each, in Triton: what fp8 tensor cores multiply with."""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.overlap import can_overlap, follow

_CHUNK: Final = 4096


@triton.jit
def float8_scale(highest):  # type: ignore[no-untyped-def]
    """Of rows whose largest numbers are these."""
    return tl.maximum(highest, 1e-12) / 448.0


@triton.jit
def float8_code(x, scale):  # type: ignore[no-untyped-def]
    """What x is stored as, before it is rounded."""
    return tl.minimum(tl.maximum(x / scale, -448.0), 448.0)


@triton.jit
def _float8_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr, codes_ptr, scales_ptr, x_stride, size, overlaps: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, chunk)
    follow(overlaps)
    highest = tl.zeros([chunk], tl.float32)
    for start in range(0, size, chunk):
        inside = start + lane < size
        x = tl.load(x_ptr + row * x_stride + start + lane, mask=inside, other=0.0).to(tl.float32)
        highest = tl.maximum(highest, tl.abs(x))
    scale = float8_scale(tl.max(highest, axis=0))
    tl.store(scales_ptr + row, scale)
    for start in range(0, size, chunk):
        inside = start + lane < size
        x = tl.load(x_ptr + row * x_stride + start + lane, mask=inside, other=0.0).to(tl.float32)
        code = float8_code(x, scale).to(codes_ptr.dtype.element_ty)
        tl.store(codes_ptr + row * size + start + lane, code, mask=inside)


def float8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(float8_e4m3fn [num_tokens, size], float32 [num_tokens, 1]) of x, [num_tokens, size]; rows contiguous."""
    codes, scales = _room(x)
    if len(x):
        overlaps = can_overlap(x)
        chunk = min(_CHUNK, triton.next_power_of_2(x.shape[1]))
        _float8_rows_kernel[(len(x),)](
            x, codes, scales, x.stride(0), x.shape[1], overlaps, chunk, num_warps=8, launch_pdl=overlaps
        )
    return codes, scales


class RowRounder:
    """Rounds rows for products, and remembers the last ones: what computes them rounds them on the way.

    A norm or a gate asks for room. The product that gets its result finds the codes there.
    """

    def __init__(self) -> None:
        self._sizes: set[int] = set()
        self._last: tuple[Tensor, tuple[Tensor, Tensor]] | None = None

    def expect(self, size: int) -> None:
        """There is a product of rows of this size."""
        self._sizes.add(size)

    def room(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Where the caller writes the codes of x and their scales, as of `float8_rows`; None: nobody needs them.

        Args:
            x: what the caller is about to write, and nobody after it.
        """
        if x.ndim != 2 or len(x) < 2 or x.shape[1] not in self._sizes:
            return None
        room = _room(x)
        self._last = x, room
        return room

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `float8_rows`."""
        if self._last is not None and self._last[0] is x:
            return self._last[1]
        return float8_rows(x)


def _room(x: Tensor) -> tuple[Tensor, Tensor]:
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    return codes, torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
