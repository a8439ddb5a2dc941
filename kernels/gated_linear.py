"""The first half of a SwiGLU network (Shazeer, "GLU Variants Improve Transformer", 2020): silu(gate) * up.

weight      [2 * size, in]: the rows of the gate, then of what it gates; merged, so that both are one product
bias        [2 * size] or None
x           [num_tokens, in]
result      [num_tokens, size]

The reference in PyTorch goes behind any linear layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quire.kernels.linear import Linear, LinearMaker


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, [num_tokens, size], of a row's first and second half."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


@dataclass(frozen=True, slots=True, eq=False)
class GatedLinear:
    """Implements `Linear`."""

    gate_up: Linear

    def __call__(self, x: Tensor) -> Tensor:
        return silu_mul(self.gate_up(x))


def gated(maker: LinearMaker) -> LinearMaker:
    """Makes gated layers of the linear ones that `maker` makes."""

    def make(weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> Linear:
        return GatedLinear(maker(weight, bias, out_dtype))

    return make
