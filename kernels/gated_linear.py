"""The first half of a gated network: a product, of whose results the first half gates the second.

weight      [2 * size, in]: the rows of the gate, then of what it gates; merged, so that both are one product
bias        [2 * size] or None
x           [num_tokens, in]
result      [num_tokens, size]

The reference in PyTorch goes behind any linear layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quire.kernels.activation import SILU, Activation, activate
from quire.kernels.coded_weight import Weight
from quire.kernels.linear import Linear, LinearMaker


class GatedLinearMaker(Protocol):
    """Takes a matrix into a backend's own layout."""

    def __call__(
        self, weight: Weight, bias: Tensor | None, out_dtype: torch.dtype, activation: Activation = SILU
    ) -> Linear:
        """The layer; otherwise as of a `LinearMaker`."""


@dataclass(frozen=True, slots=True, eq=False)
class GatedLinear:
    """Implements `Linear`.

    Attributes:
        activate: `quire.kernels.activation.activate` or its equal on a device.
    """

    gate_up: Linear
    activation: Activation
    activate: Callable[[Tensor, Activation], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.activate(self.gate_up(x), self.activation)


def gated(maker: LinearMaker, activate: Callable[[Tensor, Activation], Tensor] = activate) -> GatedLinearMaker:
    """Makes gated layers of the linear ones that `maker` makes."""

    def make(weight: Weight, bias: Tensor | None, out_dtype: torch.dtype, activation: Activation = SILU) -> Linear:
        return GatedLinear(maker(weight, bias, out_dtype), activation, activate)

    return make
