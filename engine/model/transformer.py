"""The decoder that all families share: from tokens to hidden states to logits."""

from dataclasses import dataclass

from torch import Tensor

from quire.engine.model.layers import Layers
from quire.kernels.decoder_blocks.attend import attend
from quire.kernels.decoder_blocks.base import BlockShape
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

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Compute new tokens and write their keys and values.

        Args:
            input_ids: int64 [num_tokens]; the attention backends are planned for their places.

        Returns:
            Normed hidden states, [num_tokens, hidden_size].
        """
        kernels, eps, layers = self.kernels, self.shape.rms_norm_eps, self.layers
        residual = kernels.take_rows(layers.embedding, input_ids)
        x = kernels.rms_norm(residual, layers.first_norm, eps)
        fused = layers.fused
        if fused is not None and (fused.max_tokens is None or len(x) <= fused.max_tokens):
            return fused(x, residual)
        for block in layers.blocks:
            x = block.output(attend(self.shape, block, block.qkv(x), kernels.rms_norm))
            x, residual = kernels.add_rms_norm(x, residual, block.mlp_norm, eps)
            x = block.down(block.gate_up(x))
            x, residual = kernels.add_rms_norm(x, residual, block.next_norm, eps)
        return x

    def forward(self, input_ids: Tensor, last_tokens: Tensor) -> Tensor:
        """Logits of some of the new tokens, given as indices into `input_ids`."""
        return self.logits(self.kernels.take_rows(self.hidden(input_ids), last_tokens))

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 [num_rows, vocab_size] of normed hidden states."""
        return self.layers.lm_head(hidden)
