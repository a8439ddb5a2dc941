"""Mistral: a Llama without biases whose layers may all slide."""

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.models.config import DecoderConfig
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, rotary, self_attention


class MistralConfig(DecoderConfig):
    """As `transformers.MistralConfig` means it."""

    eos_token_id: int | None = 2
    intermediate_size: int = 14336
    max_position_embeddings: int = 131072
    num_key_value_heads: int = 8
    sliding_window: int | None = 4096


def compose(config: MistralConfig, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: MistralConfig, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    shape = attention_shape(config, scope.build, window=config.sliding_window)
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        self_attention(config, scope.at("self_attn"), shape, rotary(config, scope.build)),
        norm(config, scope.at("post_attention_layernorm")),
        gated_feed_forward(config, scope.at("mlp")),
    )


MISTRAL = Family("mistral", ("MistralForCausalLM",), MistralConfig, compose)
