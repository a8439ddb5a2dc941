"""OLMo 2: norms behind attention and feed-forward layers, none before; queries and keys are normalised whole."""

from torch import Tensor

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.feed_forward import FeedForward
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pick import Pick
from quire.engine.layers.self_attention import SelfAttention
from quire.engine.models.config import DecoderConfig
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, rotary, self_attention


class Olmo2Config(DecoderConfig):
    """As `transformers.Olmo2Config` means it."""

    vocab_size: int = 50304
    rms_norm_eps: float = 1e-5
    eos_token_id: int | None = 50279


class PostNormBlock:
    """Implements `quire.engine.layers.decoder.Block`."""

    def __init__(
        self, attention: SelfAttention, attention_norm: RmsNorm, feed_forward: FeedForward, feed_forward_norm: RmsNorm
    ) -> None:
        self.attention, self.attention_norm = attention, attention_norm
        self.feed_forward, self.feed_forward_norm = feed_forward, feed_forward_norm

    def __call__(self, x: Tensor, residual: Tensor | None, positions: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
        x = x if residual is None else x + residual
        x = pick(x) + self.attention_norm(self.attention(x, positions, pick))
        return self.feed_forward_norm(self.feed_forward(x)), x


def compose(config: Olmo2Config, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: Olmo2Config, scope: Scope, layer: int) -> PostNormBlock:
    """One of its blocks."""
    return PostNormBlock(
        attention(config, scope.at("self_attn")),
        norm(config, scope.at("post_attention_layernorm")),
        gated_feed_forward(config, scope.at("mlp")),
        norm(config, scope.at("post_feedforward_layernorm")),
    )


def attention(config: Olmo2Config, scope: Scope) -> SelfAttention:
    """Of one block."""
    shape, eps, bias = attention_shape(config, scope.build), config.rms_norm_eps, config.attention_bias
    return self_attention(
        config,
        scope,
        shape,
        rotary(config, scope.build),
        qkv_bias=bias,
        output_bias=bias,
        q_norm=RmsNorm(scope.at("q_norm"), shape.num_qo_heads * shape.head_dim, eps),
        k_norm=RmsNorm(scope.at("k_norm"), shape.num_kv_heads * shape.head_dim, eps),
    )


OLMO2 = Family("olmo2", ("Olmo2ForCausalLM",), Olmo2Config, compose)
