"""Gates in Triton; the arithmetic is float32."""

import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.activation import Activation
from quire.kernels.cuda.overlap import can_overlap, follow

_BLOCK = 1024


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
def _kernel(  # type: ignore[no-untyped-def]
    gate_up_ptr, out_ptr, size, alpha, limit, kind: tl.constexpr, overlaps: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    inside = column < size
    follow(overlaps)
    gate = tl.load(gate_up_ptr + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * size + size + column, mask=inside, other=0.0).to(tl.float32)
    value = gate_of(gate, up, kind, alpha, limit)
    tl.store(out_ptr + row * size + column, value.to(out_ptr.dtype.element_ty), mask=inside)


def activate(gate_up: Tensor, activation: Activation) -> Tensor:
    """[num_tokens, size] of [num_tokens, 2 * size], contiguous."""
    num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_tokens, size), dtype=gate_up.dtype, device=gate_up.device)
    if num_tokens:
        overlaps = can_overlap(gate_up)
        _kernel[(num_tokens, triton.cdiv(size, _BLOCK))](
            gate_up, out, size, activation.alpha, activation.limit, int(activation.gate), overlaps, _BLOCK,
            launch_pdl=overlaps,
        )  # fmt: skip
    return out
