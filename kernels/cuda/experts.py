"""Mixtures of experts on an NVIDIA GPU, in Triton; nothing waits for the host, so that CUDA graphs hold them."""

from typing import Final

import torch
from torch import Tensor

from quire.kernels.activation import Activation
from quire.kernels.cuda.expert_groups import grouped_experts
from quire.kernels.cuda.expert_rows import row_experts
from quire.kernels.cuda.expert_stack import ExpertStack
from quire.kernels.experts import ExpertsShape, ExpertWeights

MOST_TOKENS_BY_ROW: Final = 4
"""More of them often choose the same networks."""


class CudaExperts:
    """Implements `Experts`."""

    def __init__(self, shape: ExpertsShape, activation: Activation) -> None:
        self._shape, self._activation = shape, activation
        self._stacks: tuple[ExpertStack, ExpertStack] | None = None

    def load(self, expert: int, network: ExpertWeights) -> None:
        parts = (network.gate_up, network.gate_up_bias), (network.down, network.down_bias)
        if self._stacks is None:
            gate_up, down = (ExpertStack.like(self._shape.num_experts, *part) for part in parts)
            self._stacks = gate_up, down
        for stack, part in zip(self._stacks, parts, strict=True):
            stack.put(expert, *part)

    def __call__(self, x: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        """
        Raises:
            RuntimeError: no networks were loaded.
        """
        if self._stacks is None:
            raise RuntimeError("experts have no weights")
        if len(x) == 0:
            return torch.empty_like(x)
        compute = row_experts if len(x) <= MOST_TOKENS_BY_ROW else grouped_experts
        return compute(x, expert_ids, weights, *self._stacks, self._activation)
