"""The `SandwichBlock`: attention and a feed-forward layer, each between two norms and added to the residual."""

from torch import Tensor

from quire.engine.layers.feed_forward import FeedForward
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pick import Pick
from quire.engine.layers.self_attention import SelfAttention


class SandwichBlock:
    """Implements `quire.engine.layers.decoder.Block`."""

    def __init__(
        self,
        before_attention: RmsNorm,
        attention: SelfAttention,
        behind_attention: RmsNorm,
        before_feed_forward: RmsNorm,
        feed_forward: FeedForward,
        behind_feed_forward: RmsNorm,
    ) -> None:
        self.before_attention, self.attention, self.behind_attention = before_attention, attention, behind_attention
        self.before_feed_forward, self.feed_forward = before_feed_forward, feed_forward
        self.behind_feed_forward = behind_feed_forward

    def __call__(self, x: Tensor, residual: Tensor | None, positions: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
        x, residual = self.before_attention.add(x, residual)
        x, residual = self.behind_attention(self.attention(x, positions, pick)), pick(residual)
        x, residual = self.before_feed_forward.add(x, residual)
        return self.behind_feed_forward(self.feed_forward(x)), residual
