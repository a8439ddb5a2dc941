"""The `PreNormBlock`: attention and a feed-forward layer, each behind a norm and added to the residual."""

from torch import Tensor

from quire.engine.layers.feed_forward import FeedForward
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pick import Pick
from quire.engine.layers.token_mixer import TokenMixer


class PreNormBlock:
    """Implements `quire.engine.layers.decoder.Block`."""

    def __init__(
        self, attention_norm: RmsNorm, attention: TokenMixer, feed_forward_norm: RmsNorm, feed_forward: FeedForward
    ) -> None:
        self.attention_norm, self.attention = attention_norm, attention
        self.feed_forward_norm, self.feed_forward = feed_forward_norm, feed_forward

    def __call__(self, x: Tensor, residual: Tensor | None, positions: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
        x, residual = self.attention_norm.add(x, residual)
        x, residual = self.attention(x, positions, pick), pick(residual)
        x, residual = self.feed_forward_norm.add(x, residual)
        return self.feed_forward(x), residual
