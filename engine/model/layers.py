"""The parameters of a model as a suite of kernels computes with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.engine.model.weights import LayerWeights, Projection, Weights
from quire.kernels.attention import AttentionBackend
from quire.kernels.decoder_blocks import Block, BlockShape, FusedBlocks
from quire.kernels.linear import Linear
from quire.kernels.suite import KernelSuite


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """A whole model. `first_norm` comes before the first block; `fused` is all of them, where the kernels do that;
    `lm_head` gives float32."""

    embedding: Tensor
    first_norm: Tensor
    blocks: tuple[Block, ...]
    fused: FusedBlocks | None
    lm_head: Linear


def prepare(
    weights: Weights, shape: BlockShape, attention: Sequence[AttentionBackend], kv: Tensor, kernels: KernelSuite
) -> Layers:
    """Give every matrix to the kernels, which may lay it out anew; norms and embedding stay as they are.

    Args:
        shape: sizes and rotary table.
        attention: the backend of each block.
        kv: the cache of each block, [num_layers, ...].
    """
    layers = weights.layers
    next_norms = [layer.input_norm for layer in layers[1:]] + [weights.norm]
    parts = zip(layers, next_norms, attention, kv.unbind(), strict=True)
    blocks = tuple(_block(*part, kernels) for part in parts)
    return Layers(
        embedding=weights.embedding,
        first_norm=layers[0].input_norm,
        blocks=blocks,
        fused=kernels.fuse_blocks(shape, blocks),
        lm_head=kernels.linear(weights.lm_head, None, torch.float32),
    )


def _block(
    weights: LayerWeights, next_norm: Tensor, attention: AttentionBackend, layer_kv: Tensor, kernels: KernelSuite
) -> Block:
    def linear(projection: Projection) -> Linear:
        return kernels.linear(projection.weight, projection.bias, projection.weight.dtype)

    return Block(
        qkv=linear(weights.qkv),
        q_norm=weights.q_norm,
        k_norm=weights.k_norm,
        output=linear(weights.output),
        mlp_norm=weights.mlp_norm,
        gate_up=kernels.gated_linear(weights.gate_up.weight, weights.gate_up.bias, weights.gate_up.weight.dtype),
        down=linear(weights.down),
        next_norm=next_norm,
        attention=attention,
        layer_kv=layer_kv,
    )
