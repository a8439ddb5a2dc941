"""The decoder that all families share: a function of weights, tokens and the paged cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quire.engine.model.layers import Layer, Layers
from quire.engine.model.model_config import ModelConfig
from quire.kernels.attention.base import AttentionBackend
from quire.kernels.suite import KernelSuite


@dataclass(frozen=True, slots=True, eq=False)
class Transformer:
    """Everything that stays the same from step to step.

    Attributes:
        config, layers: the model.
        cos_sin: the rotary table, [max_model_len, head_dim] float32.
        kernels: what computes.
        attention: a backend per distinct sliding window of `config.windows`, planned by the caller.
    """

    config: ModelConfig
    layers: Layers
    cos_sin: Tensor
    kernels: KernelSuite
    attention: Mapping[int | None, AttentionBackend]

    def hidden(self, input_ids: Tensor, kv: Sequence[Tensor]) -> Tensor:
        """Compute new tokens and write their keys and values.

        Args:
            input_ids: int64 [num_tokens]; the attention backends are planned for their places.
            kv: per layer, [num_blocks, 2, block_size, num_kv_heads, head_dim].

        Returns:
            Normed hidden states, [num_tokens, hidden_size].
        """
        kernels, eps, layers = self.kernels, self.config.rms_norm_eps, self.layers
        residual = kernels.take_rows(layers.embedding, input_ids)
        x = kernels.rms_norm(residual, layers.first_norm, eps)
        for layer, window, layer_kv in zip(layers.blocks, self.config.windows, kv, strict=True):
            x = self._attend(layer, x, layer_kv, self.attention[window])
            x, residual = kernels.add_rms_norm(x, residual, layer.mlp_norm, eps)
            x = layer.down(kernels.silu_mul(layer.gate_up(x)))
            x, residual = kernels.add_rms_norm(x, residual, layer.next_norm, eps)
        return x

    def logits(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Float32 [num_rows, vocab_size] of some rows of hidden states."""
        return self.layers.lm_head(self.kernels.take_rows(hidden, rows))

    def _attend(self, layer: Layer, x: Tensor, layer_kv: Tensor, attention: AttentionBackend) -> Tensor:
        config, kernels = self.config, self.kernels
        num_heads = [config.num_qo_heads, config.num_kv_heads, config.num_kv_heads]
        merged = layer.qkv(x).view(-1, sum(num_heads), config.head_dim)
        q, k, v = torch.split(merged, num_heads, dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = kernels.rms_norm(q, layer.q_norm, config.rms_norm_eps)
            k = kernels.rms_norm(k, layer.k_norm, config.rms_norm_eps)
        attention.append(layer_kv, q, k, v, self.cos_sin)
        return layer.output(attention.run(layer_kv, q).flatten(1))
