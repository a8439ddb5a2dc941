"""The decoder that all families share: a function of weights, tokens and the paged cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from quire.engine.model.model_config import ModelConfig
from quire.engine.model.weights import LayerWeights, Weights
from quire.kernels.attention.base import AttentionBackend, PagedBatch
from quire.kernels.suite import KernelSuite


@dataclass(frozen=True, slots=True, eq=False)
class Transformer:
    """Everything that stays the same from step to step.

    Attributes:
        config, weights: the model.
        cos_sin: the rotary table, [max_model_len, head_dim] float32.
        kernels: what computes.
        attention: a backend per distinct sliding window of `config.windows`, planned by the caller.
    """

    config: ModelConfig
    weights: Weights
    cos_sin: Tensor
    kernels: KernelSuite
    attention: Mapping[int | None, AttentionBackend]

    def hidden(self, input_ids: Tensor, paged: PagedBatch, kv: Sequence[Tensor] | Tensor) -> Tensor:
        """Compute new tokens and write their keys and values.

        Args:
            input_ids: int64 [num_tokens].
            paged: where they are; the attention backends are planned for it.
            kv: per layer, [num_blocks, 2, block_size, num_kv_heads, head_dim].

        Returns:
            Normed hidden states, [num_tokens, hidden_size].
        """
        kernels, eps = self.kernels, self.config.rms_norm_eps
        residual = embedding(input_ids, self.weights.embedding)
        x = kernels.rms_norm(residual, self.weights.layers[0].input_norm, eps)
        next_norms = [layer.input_norm for layer in self.weights.layers[1:]] + [self.weights.norm]
        for index, (layer, next_norm) in enumerate(zip(self.weights.layers, next_norms, strict=True)):
            attention = self.attention[self.config.windows[index]]
            x = self._attend(layer, x, paged, kv[index], attention)
            x, residual = kernels.add_rms_norm(x, residual, layer.mlp_norm, eps)
            x = linear(x, layer.gate_up.weight, layer.gate_up.bias)
            x = linear(kernels.silu_mul(x), layer.down.weight, layer.down.bias)
            x, residual = kernels.add_rms_norm(x, residual, next_norm, eps)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """[num_rows, vocab_size] float32."""
        return linear(hidden, self.weights.lm_head).float()

    def _attend(
        self, layer: LayerWeights, x: Tensor, paged: PagedBatch, layer_kv: Tensor, attention: AttentionBackend
    ) -> Tensor:
        config, kernels = self.config, self.kernels
        num_heads = [config.num_qo_heads, config.num_kv_heads, config.num_kv_heads]
        merged = linear(x, layer.qkv.weight, layer.qkv.bias).view(len(x), sum(num_heads), config.head_dim)
        q, k, v = torch.split(merged, num_heads, dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = kernels.rms_norm(q, layer.q_norm, config.rms_norm_eps)
            k = kernels.rms_norm(k, layer.k_norm, config.rms_norm_eps)
        kernels.rope(q, k, self.cos_sin, paged.positions)
        kernels.kv_append(layer_kv, k, v, paged.slot_mapping)
        return linear(attention.run(layer_kv, q).flatten(1), layer.output.weight, layer.output.bias)
