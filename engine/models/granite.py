"""Granite 3: a Llama whose embedding, scores, residuals and logits are scaled."""

from torch import Tensor

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.feed_forward import FeedForward
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pick import Pick
from quire.engine.layers.self_attention import SelfAttention
from quire.engine.models.config import DecoderConfig, require
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, rotary, self_attention


class GraniteConfig(DecoderConfig):
    """As `transformers.GraniteConfig` means it."""

    embedding_multiplier: float = 1.0
    logits_scaling: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    eos_token_id: int | None = 2

    def require(self) -> None:
        super().require()
        require(self.logits_scaling > 0, f"logits_scaling must be above 0, got {self.logits_scaling}")


class ScaledBlock:
    """Implements `quire.engine.layers.decoder.Block`; what is added to the residual is scaled before."""

    def __init__(
        self,
        scale: float,
        attention_norm: RmsNorm,
        attention: SelfAttention,
        feed_forward_norm: RmsNorm,
        feed_forward: FeedForward,
    ) -> None:
        self.scale = scale
        self.attention_norm, self.attention = attention_norm, attention
        self.feed_forward_norm, self.feed_forward = feed_forward_norm, feed_forward

    def __call__(self, x: Tensor, residual: Tensor | None, positions: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
        x, residual = self.attention_norm.add(x, residual)
        x, residual = self.attention(x, positions, pick) * self.scale, pick(residual)
        x, residual = self.feed_forward_norm.add(x, residual)
        return self.feed_forward(x) * self.scale, residual


def compose(config: GraniteConfig, build: Build) -> DecoderModel:
    """The model."""
    scale = 1 / config.logits_scaling
    return decoder(config, build, block, embedding_scale=config.embedding_multiplier, logits_scale=scale)


def block(config: GraniteConfig, scope: Scope, layer: int) -> ScaledBlock:
    """One of its blocks."""
    shape = attention_shape(config, scope.build, scale=config.attention_multiplier)
    angles, bias = rotary(config, scope.build), config.attention_bias
    return ScaledBlock(
        config.residual_multiplier,
        norm(config, scope.at("input_layernorm")),
        self_attention(config, scope.at("self_attn"), shape, angles, qkv_bias=bias, output_bias=bias),
        norm(config, scope.at("post_attention_layernorm")),
        gated_feed_forward(config, scope.at("mlp"), bias=config.mlp_bias),
    )


GRANITE = Family("granite", ("GraniteForCausalLM",), GraniteConfig, compose)
