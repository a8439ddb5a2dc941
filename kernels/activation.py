"""What gates a network's inner activations: of a row's first half, the gate, and its second, what it gates.

gate_up     [..., 2 * size]
result      [..., size]

Sources: Shazeer, "GLU Variants Improve Transformer", 2020, for the first two; the last is gpt-oss's.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from torch import Tensor
from torch.nn import functional


class Gate(IntEnum):
    """The formula. The numbers are those of `quire::Gate` in csrc/common/api.h, where 0 is no gate."""

    SILU = 1
    """silu(gate) * up"""
    GELU_TANH = 2
    """gelu(gate) * up, with the approximation by tanh"""
    CLAMPED_SWIGLU = 3
    """gate * sigmoid(alpha * gate) * (up + 1), of gate at most `limit` and up between -limit and `limit`"""


@dataclass(frozen=True, slots=True)
class Activation:
    """A formula and its constants, which `Gate.CLAMPED_SWIGLU` alone has."""

    gate: Gate
    alpha: float = 0.0
    limit: float = 0.0


SILU: Final = Activation(Gate.SILU)
GELU_TANH: Final = Activation(Gate.GELU_TANH)


def clamped_swiglu(alpha: float, limit: float) -> Activation:
    """gpt-oss has 1.702 and 7."""
    return Activation(Gate.CLAMPED_SWIGLU, alpha, limit)


def activate(gate_up: Tensor, activation: Activation) -> Tensor:
    """The reference."""
    gate, up = gate_up.chunk(2, dim=-1)
    match activation.gate:
        case Gate.SILU:
            return functional.silu(gate) * up
        case Gate.GELU_TANH:
            return functional.gelu(gate, approximate="tanh") * up
        case Gate.CLAMPED_SWIGLU:
            gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
            return gate * (activation.alpha * gate).sigmoid() * (up + 1)
