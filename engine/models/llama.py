"""Llama (Meta, 2 to 3.3) and models of its shape."""

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.models.config import DecoderConfig
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, rotary, self_attention


class LlamaConfig(DecoderConfig):
    """As `transformers.LlamaConfig` means it: biases are optional, for all projections of a block at once."""

    eos_token_id: int | None = 2


def compose(config: LlamaConfig, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: LlamaConfig, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    shape, angles, bias = attention_shape(config, scope.build), rotary(config, scope.build), config.attention_bias
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        self_attention(config, scope.at("self_attn"), shape, angles, qkv_bias=bias, output_bias=bias),
        norm(config, scope.at("post_attention_layernorm")),
        gated_feed_forward(config, scope.at("mlp"), bias=config.mlp_bias),
    )


LLAMA = Family("llama", ("LlamaForCausalLM",), LlamaConfig, compose)
