"""The parameters of a model as a suite of kernels computes with them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.engine.model.weights import LayerWeights, Projection, Weights
from quire.kernels.linear.base import Linear
from quire.kernels.suite import KernelSuite


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One decoder block; the names are those of `LayerWeights`. `next_norm` is the norm that follows it."""

    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    next_norm: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """A whole model. `first_norm` comes before the first block; `lm_head` gives float32."""

    embedding: Tensor
    first_norm: Tensor
    blocks: tuple[Layer, ...]
    lm_head: Linear


def prepare(weights: Weights, kernels: KernelSuite) -> Layers:
    """Give every matrix to the kernels, which may lay it out anew; norms and embedding stay as they are."""
    layers = weights.layers
    next_norms = [layer.input_norm for layer in layers[1:]] + [weights.norm]
    return Layers(
        embedding=weights.embedding,
        first_norm=layers[0].input_norm,
        blocks=tuple(_layer(layer, norm, kernels) for layer, norm in zip(layers, next_norms, strict=True)),
        lm_head=kernels.linear(weights.lm_head, None, torch.float32),
    )


def _layer(weights: LayerWeights, next_norm: Tensor, kernels: KernelSuite) -> Layer:
    def linear(projection: Projection) -> Linear:
        return kernels.linear(projection.weight, projection.bias, projection.weight.dtype)

    return Layer(
        qkv=linear(weights.qkv),
        q_norm=weights.q_norm,
        k_norm=weights.k_norm,
        output=linear(weights.output),
        mlp_norm=weights.mlp_norm,
        gate_up=linear(weights.gate_up),
        down=linear(weights.down),
        next_norm=next_norm,
    )
