"""The parameters of a model, merged for computing: queries, keys and values in one matrix, gate and up too.

All matrices are [out, in], as `torch.nn.functional.linear` takes them.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from quire.engine.model.model_config import ModelConfig

EMBEDDING: Final = "model.embed_tokens.weight"
LM_HEAD: Final = "lm_head.weight"


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A matrix [out, in] and maybe a bias [out]."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One decoder block. Norms are [hidden_size], q_norm and k_norm [head_dim].

    `qkv` has the rows of queries, then keys, then values; `gate_up` those of the gate, then of what it gates.
    """

    input_norm: Tensor
    qkv: Projection
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A whole model. `lm_head` is `embedding` itself where they are tied."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    lm_head: Tensor


def empty_weights(config: ModelConfig, dtype: torch.dtype, device: torch.device, *, tied: bool) -> Weights:
    """Allocated, not yet written.

    Args:
        tied: whether `lm_head` is `embedding` itself.
    """

    def tensor(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    def projection(out: int, size: int, bias: bool) -> Projection:
        return Projection(tensor(out, size), tensor(out) if bias else None)

    hidden, q_size = config.hidden_size, config.num_qo_heads * config.head_dim
    qkv_size = q_size + 2 * config.num_kv_heads * config.head_dim
    layers = tuple(
        LayerWeights(
            input_norm=tensor(hidden),
            qkv=projection(qkv_size, hidden, config.qkv_bias),
            q_norm=tensor(config.head_dim) if config.qk_norm else None,
            k_norm=tensor(config.head_dim) if config.qk_norm else None,
            output=projection(hidden, q_size, config.output_bias),
            mlp_norm=tensor(hidden),
            gate_up=projection(2 * config.intermediate_size, hidden, config.mlp_bias),
            down=projection(hidden, config.intermediate_size, config.mlp_bias),
        )
        for _ in range(config.num_layers)
    )
    embedding = tensor(config.vocab_size, hidden)
    lm_head = embedding if tied else tensor(config.vocab_size, hidden)
    return Weights(embedding, layers, tensor(hidden), lm_head)


def destinations(config: ModelConfig, weights: Weights) -> dict[str, Tensor]:
    """Where each tensor of a checkpoint goes, by its Hugging Face name: views into the merged parameters.

    Those of the embedding and of the output projection are one where they are tied.
    """
    found = {EMBEDDING: weights.embedding, LM_HEAD: weights.lm_head, "model.norm.weight": weights.norm}
    q_size, kv_size = config.num_qo_heads * config.head_dim, config.num_kv_heads * config.head_dim
    for index, layer in enumerate(weights.layers):
        prefix = f"model.layers.{index}"
        found[f"{prefix}.input_layernorm.weight"] = layer.input_norm
        found[f"{prefix}.post_attention_layernorm.weight"] = layer.mlp_norm
        if layer.q_norm is not None and layer.k_norm is not None:
            found[f"{prefix}.self_attn.q_norm.weight"] = layer.q_norm
            found[f"{prefix}.self_attn.k_norm.weight"] = layer.k_norm
        qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        found |= _parts(prefix, qkv, [q_size, kv_size, kv_size], layer.qkv)
        found |= _parts(prefix, ("self_attn.o_proj",), [config.hidden_size], layer.output)
        found |= _parts(prefix, ("mlp.gate_proj", "mlp.up_proj"), [config.intermediate_size] * 2, layer.gate_up)
        found |= _parts(prefix, ("mlp.down_proj",), [config.hidden_size], layer.down)
    return found


def _parts(prefix: str, names: tuple[str, ...], sizes: list[int], merged: Projection) -> dict[str, Tensor]:
    found = {
        f"{prefix}.{name}.weight": part for name, part in zip(names, torch.split(merged.weight, sizes), strict=True)
    }
    if merged.bias is not None:
        biases = zip(names, torch.split(merged.bias, sizes), strict=True)
        found |= {f"{prefix}.{name}.bias": part for name, part in biases}
    return found
