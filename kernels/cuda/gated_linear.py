"""silu(gate) * up in Triton, behind any linear layer; the arithmetic is float32."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.cuda.overlap import can_overlap, follow
from quire.kernels.linear import Linear, LinearMaker

_BLOCK = 1024


@triton.jit
def _kernel(gate_up_ptr, out_ptr, size, overlaps: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    inside = column < size
    follow(overlaps)
    gate = tl.load(gate_up_ptr + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * size + size + column, mask=inside, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * size + column, value.to(out_ptr.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor) -> Tensor:
    """[num_tokens, size] of [num_tokens, 2 * size], contiguous."""
    num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_tokens, size), dtype=gate_up.dtype, device=gate_up.device)
    if num_tokens:
        overlaps = can_overlap(gate_up)
        _kernel[(num_tokens, triton.cdiv(size, _BLOCK))](gate_up, out, size, overlaps, _BLOCK, launch_pdl=overlaps)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class TritonGatedLinear:
    """Implements `Linear`."""

    gate_up: Linear

    def __call__(self, x: Tensor) -> Tensor:
        return silu_mul(self.gate_up(x))


def gated(maker: LinearMaker) -> LinearMaker:
    """Makes gated layers of the linear ones that `maker` makes."""

    def make(weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> Linear:
        return TritonGatedLinear(maker(weight, bias, out_dtype))

    return make
