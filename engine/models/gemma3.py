"""Gemma 3, text only: norms around every part and of heads; five of six layers slide, with positions of their own."""

from typing import Any, ClassVar

from quire.engine.layers.build import Build, Scope
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.rotary import Rotary
from quire.engine.layers.sandwich_block import SandwichBlock
from quire.engine.layers.self_attention import SelfAttention
from quire.engine.models.config import rope_parameters
from quire.engine.models.family import Family
from quire.engine.models.gemma2 import OFFSET, Gemma2Config
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, self_attention
from quire.engine.models.rope_frequencies import inverse_frequencies

_LOCAL_THETA = 10_000.0


class Gemma3Config(Gemma2Config):
    """As `transformers.Gemma3TextConfig` means it.

    Attributes:
        rope_parameters: of the layers that see everything.
        local_rope_parameters: of those that slide.
    """

    rope_theta: ClassVar[float] = 1_000_000.0
    sliding_pattern: ClassVar[int] = 6

    vocab_size: int = 262_208
    max_position_embeddings: int = 131_072
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    local_rope_parameters: dict[str, Any]

    @classmethod
    def fill(cls, values: dict[str, Any]) -> None:
        given = values.get("rope_parameters") or {}
        kinds = ("full_attention", "sliding_attention")
        if isinstance(given, dict) and any(kind in given for kind in kinds):
            full, local = (given.get(kind) or {} for kind in kinds)
            values["rope_parameters"] = full
        else:
            local = {}
        sizes = {**values, "rope_scaling": None, "rope_theta": values.get("rope_local_base_freq") or _LOCAL_THETA}
        values["local_rope_parameters"] = rope_parameters({**sizes, "rope_parameters": local}, _LOCAL_THETA)
        super().fill(values)


def compose(config: Gemma3Config, build: Build) -> DecoderModel:
    """The model."""
    scale, soft_cap = config.hidden_size**0.5, config.final_logit_softcapping
    return decoder(config, build, block, norm_offset=OFFSET, embedding_scale=scale, logits_soft_cap=soft_cap)


def block(config: Gemma3Config, scope: Scope, layer: int) -> SandwichBlock:
    """One of its blocks."""
    return SandwichBlock(
        norm(config, scope.at("input_layernorm"), OFFSET),
        attention(config, scope.at("self_attn"), layer),
        norm(config, scope.at("post_attention_layernorm"), OFFSET),
        norm(config, scope.at("pre_feedforward_layernorm"), OFFSET),
        gated_feed_forward(config, scope.at("mlp")),
        norm(config, scope.at("post_feedforward_layernorm"), OFFSET),
    )


def attention(config: Gemma3Config, scope: Scope, layer: int) -> SelfAttention:
    """Of one block."""
    build, dim, eps = scope.build, config.head_dim, config.rms_norm_eps
    slides = config.layer_types[layer] == "sliding_attention"
    rope = config.local_rope_parameters if slides else config.rope_parameters
    scale, bias = config.query_pre_attn_scalar**-0.5, config.attention_bias
    return self_attention(
        config,
        scope,
        attention_shape(config, build, config.window(layer), scale, config.attn_logit_softcapping),
        Rotary(build, dim, *inverse_frequencies(config, dim, build.max_model_len, rope)),
        qkv_bias=bias,
        output_bias=bias,
        q_norm=RmsNorm(scope.at("q_norm"), dim, eps, offset=OFFSET),
        k_norm=RmsNorm(scope.at("k_norm"), dim, eps, offset=OFFSET),
    )


GEMMA3 = Family("gemma3_text", ("Gemma3ForCausalLM",), Gemma3Config, compose)
