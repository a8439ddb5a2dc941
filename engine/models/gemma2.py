"""Gemma 2: norms around every part, soft caps of scores and logits, every other layer slides."""

from typing import Any, ClassVar

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.sandwich_block import SandwichBlock
from quire.engine.models.config import DecoderConfig, check_layer_types, require
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, rotary, self_attention
from quire.kernels.activation import GELU_TANH

OFFSET = 1.0
"""Checkpoints have the weights of norms less this."""


class Gemma2Config(DecoderConfig):
    """As `transformers.Gemma2Config` means it."""

    activations: ClassVar = {"gelu_pytorch_tanh": GELU_TANH}
    sliding_pattern: ClassVar[int] = 2

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    sliding_window: int | None = 4096
    query_pre_attn_scalar: int = 256
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0
    use_bidirectional_attention: bool | None = None
    eos_token_id: int | None = 1

    @classmethod
    def fill(cls, values: dict[str, Any]) -> None:
        super().fill(values)
        # The library reads `hidden_activation` alone; `hidden_act` of older files says "gelu" and is not what computes.
        values["hidden_act"] = values.get("hidden_activation") or "gelu_pytorch_tanh"
        if not values["layer_types"]:
            pattern = values.get("sliding_window_pattern") or cls.sliding_pattern
            kinds = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(pattern)]
            values["layer_types"] = [kinds[i % pattern] for i in range(values["num_hidden_layers"])]
        check_layer_types(values)

    def require(self) -> None:
        super().require()
        require(not self.use_bidirectional_attention, "use_bidirectional_attention must be false, got true")
        scalar = self.query_pre_attn_scalar
        require(scalar > 0, f"query_pre_attn_scalar must be above 0, got {scalar}")


def compose(config: Gemma2Config, build: Build) -> DecoderModel:
    """The model."""
    return decoder(
        config,
        build,
        block,
        norm_offset=OFFSET,
        embedding_scale=config.hidden_size**0.5,
        logits_soft_cap=config.final_logit_softcapping,
    )


def block(config: Gemma2Config, scope: Scope, layer: int) -> SandwichBlock:
    """One of its blocks."""
    scale, bias = config.query_pre_attn_scalar**-0.5, config.attention_bias
    shape = attention_shape(config, scope.build, config.window(layer), scale, config.attn_logit_softcapping)
    angles = rotary(config, scope.build)
    return SandwichBlock(
        norm(config, scope.at("input_layernorm"), OFFSET),
        self_attention(config, scope.at("self_attn"), shape, angles, qkv_bias=bias, output_bias=bias),
        norm(config, scope.at("post_attention_layernorm"), OFFSET),
        norm(config, scope.at("pre_feedforward_layernorm"), OFFSET),
        gated_feed_forward(config, scope.at("mlp")),
        norm(config, scope.at("post_feedforward_layernorm"), OFFSET),
    )


GEMMA2 = Family("gemma2", ("Gemma2ForCausalLM",), Gemma2Config, compose)
