"""The `SelfAttention` layer: grouped queries (Ainslie et al., "GQA", 2023) of one merged projection."""

import torch
from torch import Tensor

from quire.engine.layers.attention import Attention
from quire.engine.layers.linear import Linear
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pick import Pick
from quire.engine.layers.rotary import Rotary


class SelfAttention:
    """From hidden states to hidden states, [num_tokens, hidden_size].

    Attributes:
        qkv: projection to queries, keys and values, in this order.
        attention, output: of the heads, and the projection behind it.
        rotary: None: positions do not count.
        q_norm, k_norm: norms before queries and keys are rotated, of single heads or of all together; None: there are
            none.
    """

    def __init__(
        self,
        qkv: Linear,
        attention: Attention,
        output: Linear,
        rotary: Rotary | None,
        q_norm: RmsNorm | None = None,
        k_norm: RmsNorm | None = None,
    ) -> None:
        self.qkv, self.attention, self.output = qkv, attention, output
        self.rotary, self.q_norm, self.k_norm = rotary, q_norm, k_norm
        shape = attention.shape
        self._num_heads = [shape.num_qo_heads, shape.num_kv_heads, shape.num_kv_heads]

    def __call__(self, x: Tensor, positions: Tensor, pick: Pick) -> Tensor:
        """Of the tokens that go on.

        Args:
            positions: int64 [num_tokens].
        """
        return self.output(pick(self._attended(x).flatten(1)))

    def _attended(self, x: Tensor) -> Tensor:
        merged = self.qkv(x).view(len(x), sum(self._num_heads), self.attention.shape.head_dim)
        q, k, v = torch.split(merged, self._num_heads, dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self._normed(self.q_norm, q), self._normed(self.k_norm, k)
        if self.rotary is None:
            return self.attention(q, k, v)
        return self.attention.rotated(q, k, v, self.rotary.cos_sin)

    @staticmethod
    def _normed(norm: RmsNorm, heads: Tensor) -> Tensor:
        return norm(heads) if norm.size == heads.shape[-1] else norm(heads.flatten(1)).view(heads.shape)
