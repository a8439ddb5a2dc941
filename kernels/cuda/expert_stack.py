"""One matrix of every network of a mixture of experts, one behind the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.coded_weight import Weight, int8_parts


@dataclass(frozen=True, slots=True, eq=False)
class ExpertStack:
    """
    Attributes:
        weight: [num_experts, out, in], int8 where there is a scale.
        scale: float32 [num_experts, out] or None.
        bias: [num_experts, out] or None.
    """

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None

    @classmethod
    def like(cls, num_experts: int, weight: Weight, bias: Tensor | None) -> "ExpertStack":
        """Room for the matrices of networks that have such weights and biases."""
        numbers, scale = int8_parts(weight)
        out, device = len(numbers), numbers.device
        return cls(
            torch.empty((num_experts, *numbers.shape), dtype=numbers.dtype, device=device),
            None if scale is None else torch.empty((num_experts, out), dtype=torch.float32, device=device),
            None if bias is None else torch.empty((num_experts, out), dtype=bias.dtype, device=device),
        )

    def put(self, expert: int, weight: Weight, bias: Tensor | None) -> None:
        numbers, scale = int8_parts(weight)
        self.weight[expert] = numbers
        if self.scale is not None and scale is not None:
            self.scale[expert] = scale
        if self.bias is not None and bias is not None:
            self.bias[expert] = bias
