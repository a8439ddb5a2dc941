"""A mixture of experts behind its router: gated networks, of which each token passes through a few.

x             [num_tokens, hidden]
expert_ids    int32 or int64 [num_tokens, top_k], in [0, num_experts)
weights       float32 [num_tokens, top_k]
result        [num_tokens, hidden] of x's type: the sum over k of weights[t, k] * down(gate_up(x[t])) of the networks
              expert_ids[t, k], in the order of k

Who chooses experts and weights is not known here. The reference goes over linear layers of any backend.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from quire.kernels.activation import Activation
from quire.kernels.coded_weight import Weight
from quire.kernels.gated_linear import GatedLinearMaker
from quire.kernels.linear import Linear, LinearMaker


@dataclass(frozen=True, slots=True)
class ExpertsShape:
    """Sizes of a layer; `size` is that of a network's inner activations."""

    num_experts: int
    hidden: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class ExpertWeights:
    """One network: gate_up [2 * size, hidden], the rows of the gate, then of what it gates; down [hidden, size]."""

    gate_up: Weight
    down: Weight
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


class Experts(Protocol):
    """All networks of a layer. Their weights come one network at a time, so that nobody holds all of them twice."""

    def load(self, expert: int, network: ExpertWeights) -> None:
        """Take one network's weights; once for each, in any order, before the first call. All are of one type, and
        all have the biases that one has. They may or may not be kept, and must not change any more."""

    def __call__(self, x: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        """As above; all contiguous."""


ExpertsMaker: TypeAlias = Callable[[ExpertsShape, Activation], Experts]
"""The layer, still without weights."""


class LinearExperts:
    """Implements `Experts`."""

    def __init__(
        self, shape: ExpertsShape, activation: Activation, linear: LinearMaker, gated_linear: GatedLinearMaker
    ) -> None:
        self._activation, self._linear, self._gated_linear = activation, linear, gated_linear
        self._hidden = shape.hidden
        self._networks: dict[int, tuple[Linear, Linear]] = {}

    def load(self, expert: int, network: ExpertWeights) -> None:
        dtype = network.gate_up.dtype
        self._networks[expert] = (
            self._gated_linear(network.gate_up, network.gate_up_bias, dtype, self._activation),
            self._linear(network.down, network.down_bias, torch.float32),
        )

    def __call__(self, x: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        parts = torch.zeros((*expert_ids.shape, self._hidden), dtype=torch.float32, device=x.device)
        for expert in set(expert_ids.flatten().tolist()):
            gate_up, down = self._networks[expert]
            chosen = expert_ids == expert
            parts[chosen] = down(gate_up(x[chosen.nonzero()[:, 0]]))
        return (parts * weights[..., None]).sum(dim=1).to(x.dtype)


def linear_experts(linear: LinearMaker, gated_linear: GatedLinearMaker) -> ExpertsMaker:
    """Makes experts of the linear layers that others make."""
    return lambda shape, activation: LinearExperts(shape, activation, linear, gated_linear)
