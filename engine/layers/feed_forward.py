"""Feed-forward layers."""

from typing import Protocol

from torch import Tensor

from quire.engine.layers.linear import Linear


class FeedForward(Protocol):
    """Computes every token by itself."""

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, hidden_size] of the same."""


class GatedFeedForward:
    """down(silu(gate(x)) * up(x)) (Shazeer, "GLU Variants Improve Transformer", 2020).

    Attributes:
        gate_up: gate and up merged, which multiplies the halves already.
        down: back to hidden states.
    """

    def __init__(self, gate_up: Linear, down: Linear) -> None:
        self.gate_up, self.down = gate_up, down

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.gate_up(x))
