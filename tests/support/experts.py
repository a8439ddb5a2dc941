"""Small mixtures of experts, and what comes out of them, token by token in float64."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quire.kernels.activation import Activation, activate
from quire.kernels.coded_weight import int8 as coded_int8
from quire.kernels.experts import Experts, ExpertsMaker, ExpertsShape, ExpertWeights


@dataclass(frozen=True)
class Mixture:
    """Random networks."""

    shape: ExpertsShape
    activation: Activation
    networks: tuple[ExpertWeights, ...]

    @classmethod
    def random(
        cls, shape: ExpertsShape, activation: Activation, dtype: torch.dtype, *, biased: bool, device: str = "cpu"
    ) -> "Mixture":
        generator = torch.Generator().manual_seed(shape.size)

        def random(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator).to(device, dtype)

        hidden, size = shape.hidden, shape.size
        return cls(
            shape,
            activation,
            tuple(
                ExpertWeights(
                    gate_up=random(2 * size, hidden) * hidden**-0.5,
                    down=random(hidden, size) * size**-0.5,
                    gate_up_bias=random(2 * size) if biased else None,
                    down_bias=random(hidden) if biased else None,
                )
                for _ in range(shape.num_experts)
            ),
        )

    def made_by(self, maker: ExpertsMaker, *, int8: bool = False) -> Experts:
        experts = maker(self.shape, self.activation)
        for expert in reversed(range(self.shape.num_experts)):
            network = self.networks[expert]
            if int8:
                network = replace(network, gate_up=coded_int8(network.gate_up), down=coded_int8(network.down))
            experts.load(expert, network)
        return experts

    def wanted(self, x: Tensor, expert_ids: Tensor, weights: Tensor, *, int8: bool = False) -> Tensor:
        """float64; the weights are those that int8 leaves of them."""
        out = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        for token, (ids, shares) in enumerate(zip(expert_ids.tolist(), weights.tolist(), strict=True)):
            for expert, share in zip(ids, shares, strict=True):
                network = self.networks[expert]
                inner = _product(x[token].double(), network.gate_up, network.gate_up_bias, int8)
                outer = _product(activate(inner, self.activation), network.down, network.down_bias, int8)
                out[token] += share * outer
        return out


def routed(num_tokens: int, num_experts: int, top_k: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Different experts of each token and their shares."""
    generator = torch.Generator().manual_seed(num_tokens)
    scores = torch.rand(num_tokens, num_experts, generator=generator)
    weights, expert_ids = scores.topk(top_k)
    return expert_ids.to(device), (weights / weights.sum(dim=1, keepdim=True)).to(device)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, int8: bool) -> Tensor:
    if int8:
        coded = coded_int8(weight)
        product = coded.codes.double() @ x * coded.scales[:, 0].double()
    else:
        product = weight.double() @ x
    return product if bias is None else product + bias.double()
