"""The `LatentAttention` layer (DeepSeek-V2, https://arxiv.org/abs/2405.04434): the cache holds one vector a token.

A token's keys and values are products of one latent vector, besides a key for its position that all heads share. Here
the latent vector itself is cached and attended to, as one key head: the products are absorbed into the queries before
the attention, and into its results behind.
"""

from torch import Tensor, cat, einsum, split

from quire.engine.layers.attention import Attention
from quire.engine.layers.build import Scope
from quire.engine.layers.feed_forward import FeedForward
from quire.engine.layers.linear import Linear
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pick import Pick
from quire.engine.layers.rotary import Rotary
from quire.kernels.rope import rope


class Absorbed:
    """The matrices between the latent vector and the heads.

    Attributes:
        keys: [num_heads, key_dim, rank]: queries to queries of the latent vector.
        values: [num_heads, value_dim, rank]: results to results of the heads. Both are there once the weights are.
    """

    def __init__(self, scope: Scope, num_heads: int, key_dim: int, value_dim: int, rank: int) -> None:
        self._build, self._shape = scope.build, (num_heads, key_dim + value_dim, rank)
        self._parts = [key_dim, value_dim]
        scope.require({"weight": (num_heads * (key_dim + value_dim), rank)}, self._load)
        self.keys: Tensor
        self.values: Tensor

    def _load(self, name: str, tensor: Tensor) -> None:
        merged = tensor.to(self._build.dtype).view(self._shape)
        self.keys, self.values = (part.contiguous() for part in split(merged, self._parts, dim=1))


class LatentAttention:
    """From hidden states to hidden states, [num_tokens, hidden_size].

    Attributes:
        queries: projection to the heads' queries, position's part last.
        latent: projection to the latent vector and the position's key; `norm` is of the vector alone.
        absorbed, attention, output: from latent queries to the projection behind the heads.
        rotary: of the position's part.
    """

    def __init__(
        self,
        queries: FeedForward,
        latent: Linear,
        norm: RmsNorm,
        absorbed: Absorbed,
        attention: Attention,
        output: Linear,
        rotary: Rotary,
    ) -> None:
        self.queries, self.latent, self.norm, self.absorbed = queries, latent, norm, absorbed
        self.attention, self.output, self.rotary = attention, output, rotary

    def __call__(self, x: Tensor, positions: Tensor, pick: Pick) -> Tensor:
        """Of the tokens that go on.

        Args:
            positions: int64 [num_tokens].
        """
        num_heads, key_dim, rank = self.absorbed.keys.shape
        queries = self.queries(x).view(len(x), num_heads, -1)
        q, q_place = queries[..., :key_dim], queries[..., key_dim:]
        latent = self.latent(x)
        vector, k_place = self.norm(latent[:, : self.norm.size]), latent[:, None, self.norm.size :]
        rope(q_place, k_place, self.rotary.cos_sin, positions)
        q = cat((einsum("thd,hdr->thr", q, self.absorbed.keys), q_place), dim=-1)
        attended = pick(self.attention(q, cat((vector[:, None], k_place), dim=-1), None).flatten(1))
        heads = einsum("thr,hdr->thd", attended.view(len(attended), num_heads, rank), self.absorbed.values)
        return self.output(heads.flatten(1))


class LowRank:
    """Queries through a narrow vector with a norm."""

    def __init__(self, down: Linear, norm: RmsNorm, up: Linear) -> None:
        self.down, self.norm, self.up = down, norm, up

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, out] of [num_tokens, in]."""
        return self.up(self.norm(self.down(x)))
