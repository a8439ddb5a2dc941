"""Parts that most families have, by the names that checkpoints give them."""

from collections.abc import Callable
from typing import TypeVar

from quire.engine.layers.attention import Attention, AttentionShape, window_within
from quire.engine.layers.build import Build, Scope
from quire.engine.layers.cache_scales import CacheScales
from quire.engine.layers.decoder import Block, DecoderModel
from quire.engine.layers.embedding import Embedding, Head
from quire.engine.layers.feed_forward import GatedFeedForward
from quire.engine.layers.linear import Linear
from quire.engine.layers.norm import RmsNorm
from quire.engine.layers.rotary import Rotary
from quire.engine.layers.self_attention import SelfAttention
from quire.engine.models.config import DecoderConfig, require
from quire.engine.models.rope_frequencies import inverse_frequencies

Config = TypeVar("Config", bound=DecoderConfig)


def decoder(
    config: Config,
    build: Build,
    block: Callable[[Config, Scope, int], Block],
    *,
    norm_offset: float = 0.0,
    embedding_scale: float = 1.0,
    logits_scale: float = 1.0,
    logits_soft_cap: float | None = None,
) -> DecoderModel:
    """The whole model.

    Args:
        block: one of its blocks, by number.
        norm_offset: see `RmsNorm`.
        embedding_scale: see `Embedding`.
        logits_scale, logits_soft_cap: see `Head`.
    """
    scope, head = build.root.at("model"), build.root.at("lm_head")
    embedding = Embedding(scope.at("embed_tokens"), config.vocab_size, config.hidden_size, scale=embedding_scale)
    return DecoderModel(
        build,
        embedding,
        [block(config, scope.at("layers", layer), layer) for layer in range(config.num_hidden_layers)],
        norm(config, scope.at("norm"), norm_offset),
        Head(head, embedding, tied=config.tie_word_embeddings, scale=logits_scale, soft_cap=logits_soft_cap),
    )


def norm(config: DecoderConfig, scope: Scope, offset: float = 0.0) -> RmsNorm:
    """Of hidden states."""
    return RmsNorm(scope, config.hidden_size, config.rms_norm_eps, offset=offset)


def attention_shape(
    config: DecoderConfig, build: Build, window: int | None = None, scale: float | None = None,
    soft_cap: float | None = None, has_sinks: bool = False,
) -> AttentionShape:  # fmt: skip
    """Heads as the configuration has them; a window that holds every sequence is none."""
    return AttentionShape(
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        window_within(window, build.max_model_len),
        scale,
        soft_cap,
        has_sinks,
    )


def rotary(config: DecoderConfig, build: Build, *, interleaved: bool = False, partial: bool = False) -> Rotary:
    """Args:
    partial: whether `partial_rotary_factor` counts in this family.
    """
    dim = config.rotary_dim if partial else config.head_dim
    frequencies = inverse_frequencies(config, dim, build.max_model_len)
    return Rotary(build, config.head_dim, *frequencies, interleaved=interleaved)


def self_attention(
    config: DecoderConfig,
    scope: Scope,
    shape: AttentionShape,
    rotary: Rotary | None,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    q_norm: RmsNorm | None = None,
    k_norm: RmsNorm | None = None,
) -> SelfAttention:
    """Of three projections that are merged."""
    q_size, kv_size = shape.num_qo_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    orders = {}
    if rotary is not None and rotary.order is not None:
        orders = {"q_proj": rotary.rows(shape.num_qo_heads), "k_proj": rotary.rows(shape.num_kv_heads)}
    parts = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
    return SelfAttention(
        Linear(scope, parts, config.hidden_size, bias=qkv_bias, orders=orders),
        Attention(scope.build, shape, CacheScales(scope)),
        Linear(scope, {"o_proj": config.hidden_size}, q_size, bias=output_bias),
        rotary,
        q_norm,
        k_norm,
    )


def check_experts(num_experts: int, top_k: int) -> None:
    """
    Raises:
        StartupError: a token cannot pass through so many.
    """
    require(0 < top_k <= num_experts, f"num_experts_per_tok must be from 1 to {num_experts}, got {top_k}")


def gated_feed_forward(
    config: DecoderConfig, scope: Scope, *, size: int | None = None, bias: bool = False, is_merged: bool = False
) -> GatedFeedForward:
    """Args:
    size: of the inner activations; None: `intermediate_size`.
    is_merged: whether the checkpoint has gate and up in one matrix.
    """
    hidden, size = config.hidden_size, size or config.intermediate_size
    parts = {"gate_up_proj": 2 * size} if is_merged else {"gate_proj": size, "up_proj": size}
    return GatedFeedForward(
        Linear(scope, parts, hidden, bias=bias, activation=config.activation),
        Linear(scope, {"down_proj": hidden}, size, bias=bias),
    )
