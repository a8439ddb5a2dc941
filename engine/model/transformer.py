"""The decoder that all families share: from tokens to hidden states to logits."""

from dataclasses import dataclass

from torch import Tensor

from quire.engine.model.layers import Layers
from quire.kernels.decoder_blocks.attend import attend, wanted
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

    def hidden(self, input_ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Compute new tokens and write their keys and values.

        Args:
            input_ids: int64 [num_tokens]; the attention backends are planned for their places.
            rows: int64 [num_rows], ascending: the tokens whose states are wanted; None: all.

        Returns:
            Normed hidden states, [num_rows, hidden_size].
        """
        kernels, eps, layers = self.kernels, self.shape.rms_norm_eps, self.layers
        residual = kernels.take_rows(layers.embedding, input_ids)
        x = kernels.rms_norm(residual, layers.first_norm, eps)
        if layers.fused is not None:
            return layers.fused(x, residual, rows)
        for block in layers.blocks:
            attended = attend(self.shape, block, block.qkv(x), kernels.rms_norm)
            if block is layers.blocks[-1]:
                attended, residual = wanted(rows, attended, residual)
            x = block.output(attended)
            x, residual = kernels.add_rms_norm(x, residual, block.mlp_norm, eps)
            x = block.down(block.gate_up(x))
            x, residual = kernels.add_rms_norm(x, residual, block.next_norm, eps)
        return x

    def forward(self, input_ids: Tensor, last_tokens: Tensor) -> Tensor:
        """Logits of some of the new tokens, given as indices into `input_ids`."""
        return self.logits(self.hidden(input_ids, last_tokens))

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 [num_rows, vocab_size] of normed hidden states."""
        return self.layers.lm_head(hidden)
