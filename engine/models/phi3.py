"""Phi-3, Phi-3.5 and Phi-4: merged projections; a part of the head may be rotated, with frequencies for long texts."""

from quire.engine.layers.attention import Attention
from quire.engine.layers.build import Build, Scope
from quire.engine.layers.cache_scales import CacheScales
from quire.engine.layers.decoder import DecoderModel
from quire.engine.layers.linear import Linear
from quire.engine.layers.pre_norm_block import PreNormBlock
from quire.engine.layers.self_attention import SelfAttention
from quire.engine.models.config import DecoderConfig
from quire.engine.models.family import Family
from quire.engine.models.parts import attention_shape, decoder, gated_feed_forward, norm, rotary


class Phi3Config(DecoderConfig):
    """As `transformers.Phi3Config` means it."""

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    eos_token_id: int | None = 32000


def compose(config: Phi3Config, build: Build) -> DecoderModel:
    """The model."""
    return decoder(config, build, block)


def block(config: Phi3Config, scope: Scope, layer: int) -> PreNormBlock:
    """One of its blocks."""
    return PreNormBlock(
        norm(config, scope.at("input_layernorm")),
        attention(config, scope.at("self_attn")),
        norm(config, scope.at("post_attention_layernorm")),
        gated_feed_forward(config, scope.at("mlp"), is_merged=True),
    )


def attention(config: Phi3Config, scope: Scope) -> SelfAttention:
    """Of one block."""
    build, hidden = scope.build, config.hidden_size
    shape = attention_shape(config, build, window=config.sliding_window)
    angles = rotary(config, build, partial=True)
    num_rotated = shape.num_qo_heads + shape.num_kv_heads
    rotated, whole = num_rotated * shape.head_dim, (num_rotated + shape.num_kv_heads) * shape.head_dim
    orders = {} if angles.order is None else {"qkv_proj": [*angles.rows(num_rotated), *range(rotated, whole)]}
    return SelfAttention(
        Linear(scope, {"qkv_proj": whole}, hidden, orders=orders),
        Attention(build, shape, CacheScales(scope)),
        Linear(scope, {"o_proj": hidden}, shape.num_qo_heads * shape.head_dim),
        angles,
    )


PHI3 = Family("phi3", ("Phi3ForCausalLM",), Phi3Config, compose)
