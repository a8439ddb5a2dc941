"""GLM-4: half of the head is rotated, as neighbours. Those of 2025 have norms around every part."""

from typing import Any

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.layers.sandwich_block import SandwichBlock
from quire.engine.layers.self_attention import SelfAttention
from quire.engine.models.config import DecoderConfig
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, rotary, self_attention


class GlmConfig(DecoderConfig):
    """As `transformers.GlmConfig` and `transformers.Glm4Config` mean it."""

    vocab_size: int = 151552
    intermediate_size: int = 13696
    num_hidden_layers: int = 40
    num_key_value_heads: int = 2
    head_dim: int = 128
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 0.00000015625
    attention_bias: bool = True

    @classmethod
    def fill(cls, values: dict[str, Any]) -> None:
        super().fill(values)
        values["rope_parameters"].setdefault("partial_rotary_factor", 0.5)


class Glm4Config(GlmConfig):
    """Of those of 2025."""


def compose_glm(config: GlmConfig, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, glm_block)


def compose_glm4(config: GlmConfig, build: Build) -> DecoderModel:
    """The model of 2025."""
    return decoder(config, build, glm4_block)


def glm_block(config: GlmConfig, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        attention(config, scope.at("self_attn")),
        norm(config, scope.at("post_attention_layernorm")),
        gated_feed_forward(config, scope.at("mlp"), is_merged=True),
    )


def glm4_block(config: GlmConfig, scope: Scope, layer: int) -> SandwichBlock:
    """One of its blocks."""
    return SandwichBlock(
        norm(config, scope.at("input_layernorm")),
        attention(config, scope.at("self_attn")),
        norm(config, scope.at("post_self_attn_layernorm")),
        norm(config, scope.at("post_attention_layernorm")),
        gated_feed_forward(config, scope.at("mlp"), is_merged=True),
        norm(config, scope.at("post_mlp_layernorm")),
    )


def attention(config: GlmConfig, scope: Scope) -> SelfAttention:
    """Of one block."""
    angles = rotary(config, scope.build, interleaved=True, partial=True)
    return self_attention(config, scope, attention_shape(config, scope.build), angles, qkv_bias=config.attention_bias)


GLM = Family("glm", ("GlmForCausalLM",), GlmConfig, compose_glm)
GLM4 = Family("glm4", ("Glm4ForCausalLM",), Glm4Config, compose_glm4)
