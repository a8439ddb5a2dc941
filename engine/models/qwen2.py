"""Qwen2 and Qwen2.5: biases on queries, keys and values; the upper layers may slide."""

from typing import Any

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.models.config import DecoderConfig, check_layer_types
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, rotary, self_attention


class Qwen2Config(DecoderConfig):
    """As `transformers.Qwen2Config` means it.

    Layers slide from a number on, where they slide at all; or each says by itself whether it does.
    """

    vocab_size: int = 151936
    intermediate_size: int = 22016
    max_position_embeddings: int = 32768
    num_key_value_heads: int = 32
    sliding_window: int | None = 4096
    use_sliding_window: bool = False
    max_window_layers: int = 28

    @classmethod
    def fill(cls, values: dict[str, Any]) -> None:
        super().fill(values)
        if not values["use_sliding_window"]:
            values["sliding_window"] = None
        count = values["num_hidden_layers"]
        if not values["layer_types"]:
            first = values["max_window_layers"] if values["sliding_window"] is not None else count
            values["layer_types"] = ["full_attention" if i < first else "sliding_attention" for i in range(count)]
        check_layer_types(values)


def compose(config: Qwen2Config, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: Qwen2Config, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    shape = attention_shape(config, scope.build, window=config.window(layer))
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        self_attention(config, scope.at("self_attn"), shape, rotary(config, scope.build), qkv_bias=True),
        norm(config, scope.at("post_attention_layernorm")),
        gated_feed_forward(config, scope.at("mlp")),
    )


QWEN2 = Family("qwen2", ("Qwen2ForCausalLM",), Qwen2Config, compose)
