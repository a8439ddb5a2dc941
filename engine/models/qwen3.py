"""Qwen3: queries and keys are normalised per head; the upper layers may slide."""

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.layers.self_attention import SelfAttention
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, rotary, self_attention
from quire.engine.models.qwen2 import Qwen2Config


class Qwen3Config(Qwen2Config):
    """As `transformers.Qwen3Config` means it."""

    head_dim: int = 128


def compose(config: Qwen3Config, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: Qwen3Config, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        attention(config, scope.at("self_attn"), layer),
        norm(config, scope.at("post_attention_layernorm")),
        gated_feed_forward(config, scope.at("mlp")),
    )


def attention(config: Qwen3Config, scope: Scope, layer: int) -> SelfAttention:
    """Of one block."""
    bias, dim, eps = config.attention_bias, config.head_dim, config.rms_norm_eps
    return self_attention(
        config,
        scope,
        attention_shape(config, scope.build, window=config.window(layer)),
        rotary(config, scope.build),
        qkv_bias=bias,
        output_bias=bias,
        q_norm=RmsNorm(scope.at("q_norm"), dim, eps),
        k_norm=RmsNorm(scope.at("k_norm"), dim, eps),
    )


QWEN3 = Family("qwen3", ("Qwen3ForCausalLM",), Qwen3Config, compose)
