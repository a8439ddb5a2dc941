"""The decoder that all families share: from tokens to hidden states to logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.engine.model.layers import Layers
from quire.kernels.decoder_blocks import Block, BlockShape
from quire.kernels.suite import KernelSuite


@dataclass(frozen=True, slots=True, eq=False)
class Transformer:
    """Everything that stays the same from step to step.

    Attributes:
        shape: sizes and the rotary table, [max_model_len, head_dim] float32.
        layers: parameters, attention and cache of every block; the caller plans the attention.
        kernels: what computes.
    """

    shape: BlockShape
    layers: Layers
    kernels: KernelSuite

    def hidden(self, input_ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Compute new tokens and write their keys and values.

        Args:
            input_ids: int64 [num_tokens]; the attention backends are planned for their places.
            rows: int64 [num_rows], ascending: the tokens whose states are wanted; None: all.

        Returns:
            Normed hidden states, [num_rows, hidden_size].
        """
        x, residual = self.embed(input_ids)
        layers = self.layers
        if layers.fused is not None:
            return layers.fused(x, residual, rows)
        for block in layers.blocks:
            attended = block.attention.run(block.layer_kv, self.project(block, x)).flatten(1)
            if block is layers.blocks[-1] and rows is not None:
                return self.finish_rows(block, attended, residual, rows)
            x, residual = self.finish(block, attended, residual)
        return x

    def embed(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Normed states before the first block, and the residual, [num_tokens, hidden_size] each."""
        residual = self.kernels.take_rows(self.layers.embedding, input_ids)
        return self.kernels.rms_norm(residual, self.layers.first_norm, self.shape.rms_norm_eps), residual

    def project(self, block: Block, x: Tensor) -> Tensor:
        """Merged projection, normed heads, rotation and append: queries [num_tokens, num_qo_heads, head_dim]."""
        shape, kernels = self.shape, self.kernels
        num_heads = [shape.num_qo_heads, shape.num_kv_heads, shape.num_kv_heads]
        merged = block.qkv(x).view(-1, sum(num_heads), shape.head_dim)
        q, k, v = torch.split(merged, num_heads, dim=1)
        if block.q_norm is not None and block.k_norm is not None:
            q = kernels.rms_norm(q, block.q_norm, shape.rms_norm_eps)
            k = kernels.rms_norm(k, block.k_norm, shape.rms_norm_eps)
        block.attention.append(block.layer_kv, q, k, v, shape.cos_sin)
        return q

    def finish(self, block: Block, attended: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The block behind the attention, [num_tokens, num_qo_heads * head_dim]; returns normed states and residual."""
        kernels, eps = self.kernels, self.shape.rms_norm_eps
        x, residual = kernels.add_rms_norm(block.output(attended), residual, block.mlp_norm, eps)
        return kernels.add_rms_norm(block.down(block.gate_up(x)), residual, block.next_norm, eps)

    def finish_rows(self, block: Block, attended: Tensor, residual: Tensor, rows: Tensor) -> Tensor:
        """Normed states behind the last block: there no token needs another one any more."""
        take_rows = self.kernels.take_rows
        return self.finish(block, take_rows(attended, rows), take_rows(residual, rows))[0]

    def forward(self, input_ids: Tensor, last_tokens: Tensor) -> Tensor:
        """Logits of some of the new tokens, given as indices into `input_ids`."""
        return self.logits(self.hidden(input_ids, last_tokens))

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 [num_rows, vocab_size] of normed hidden states."""
        return self.layers.lm_head(hidden)
