"""In C++; each network is two native linear layers."""

import torch
from torch import Tensor

from quire.kernels.activation import Activation
from quire.kernels.coded_weight import CodedWeight
from quire.kernels.experts import ExpertsShape, ExpertWeights
from quire.kernels.native.int4 import is_int4
from quire.kernels.native.library import NativeLibrary
from quire.kernels.native.linear import Matrix, NativeLinear


class NativeExperts:
    """Implements `Experts`. A token's result does not depend on the batch."""

    def __init__(self, library: NativeLibrary, shape: ExpertsShape, activation: Activation) -> None:
        """Sizes must be even."""
        self._library, self._shape, self._activation = library, shape, activation
        self._networks: dict[int, tuple[NativeLinear, NativeLinear]] = {}
        matrices = Matrix * shape.num_experts
        self._gate_up, self._down = matrices(), matrices()

    def load(self, expert: int, network: ExpertWeights) -> None:
        first, second = network.gate_up, network.down
        if is_int4(first) != is_int4(second):
            # All products of a mixture read codes of one kind.
            first, second = (each.widened() if isinstance(each, CodedWeight) else each for each in (first, second))
        gate_up = NativeLinear.pack(
            self._library, first, network.gate_up_bias, first.dtype, activation=self._activation
        )
        down = NativeLinear.pack(self._library, second, network.down_bias, torch.float32)
        self._networks[expert] = gate_up, down
        self._gate_up[expert], self._down[expert] = gate_up.matrix, down.matrix

    def __call__(self, x: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        """
        Raises:
            RuntimeError: some networks were not loaded.
        """
        num_experts, (num_tokens, top_k) = self._shape.num_experts, expert_ids.shape
        if len(self._networks) < num_experts:
            raise RuntimeError(f"{num_experts - len(self._networks)} of {num_experts} experts have no weights")
        out = torch.empty_like(x)
        ids = expert_ids.to(torch.int64)
        self._library.experts(
            self._library.pool, x.dtype == torch.bfloat16, x.data_ptr(), self._gate_up, self._down, num_experts,
            ids.data_ptr(), weights.data_ptr(), num_tokens, top_k, out.data_ptr(),
        )  # fmt: skip
        return out
