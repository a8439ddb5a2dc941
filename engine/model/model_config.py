"""The `ModelConfig`: all that distinguishes one decoder model from another, under one name for all families."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from quire.engine.api.errors import StartupError
from quire.engine.json_file import shortened
from quire.engine.model.hf_config import HfConfig
from quire.engine.model.rotary import context_length, inverse_frequencies

# The least and the most of each size in config.json. The most is far above every model's, and low enough that the bytes
# of any matrix are a 64-bit number. The library fills in what is left out or null.
_SIZES: Final = {
    "vocab_size": (1, 1 << 24),
    "hidden_size": (1, 1 << 20),
    "intermediate_size": (1, 1 << 24),
    "num_hidden_layers": (1, 10_000),
    "num_attention_heads": (1, 1 << 14),
    "num_key_value_heads": (1, 1 << 14),
    "head_dim": (2, 1 << 12),
    "max_position_embeddings": (2, 1 << 24),
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A pre-norm decoder with rotary positions, grouped queries and SwiGLU blocks.

    Attributes:
        vocab_size, hidden_size, intermediate_size, num_layers, num_qo_heads, num_kv_heads, head_dim: sizes.
        max_model_len: tokens of prompt and generation together.
        rms_norm_eps: added to the mean square in every norm.
        inv_freq: head_dim / 2 rotary frequencies in radians per position, exact in float32.
        rope_scale: factor of the rotary cosines and sines.
        tied_embeddings: the output projection is the embedding.
        qkv_bias, output_bias, mlp_bias: which projections have a bias.
        qk_norm: queries and keys are normalised per head before they are rotated.
        windows: sliding window of each layer, None where it sees everything.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    max_model_len: int
    rms_norm_eps: float
    inv_freq: tuple[float, ...]
    rope_scale: float
    tied_embeddings: bool
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


def check_sizes(description: Mapping[str, Any]) -> None:
    """
    Args:
        description: the object in config.json.

    Raises:
        StartupError: one of its sizes is not an integer within its bounds.
    """
    for name, (least, most) in _SIZES.items():
        value = description.get(name)
        is_size = value is None or (type(value) is int and least <= value <= most)
        _require(is_size, f"{name} must be an integer from {least} to {most}, got {shortened(value)}")


def common_config(hf: HfConfig) -> ModelConfig:
    """Settings that all families call by the same names; a family adds its own with `dataclasses.replace`.

    Raises:
        StartupError: the model has something that no family here computes.
    """
    _require(hf.hidden_act == "silu", f"hidden_act must be silu, got {hf.hidden_act!r}")
    quantization = hf.quantization_config
    _require(quantization is None, f"quantized weights are not supported, got {shortened(quantization)}")
    eps = hf.rms_norm_eps
    _require(0 < eps < math.inf, f"rms_norm_eps must be a number above 0, got {eps!r}")
    num_heads, num_kv_heads = hf.num_attention_heads, hf.num_key_value_heads
    _require(num_heads % num_kv_heads == 0, f"{num_heads} query heads do not divide among {num_kv_heads} key heads")
    head_dim = hf.head_dim
    _require(head_dim % 2 == 0, f"head_dim must be even, got {head_dim}")
    max_model_len = hf.max_position_embeddings
    inv_freq, rope_scale = inverse_frequencies(hf, head_dim, max_model_len)
    return ModelConfig(
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        num_layers=hf.num_hidden_layers,
        num_qo_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_model_len=max_model_len,
        rms_norm_eps=eps,
        inv_freq=inv_freq,
        rope_scale=rope_scale,
        tied_embeddings=hf.tie_word_embeddings,
        windows=(None,) * hf.num_hidden_layers,
    )


def with_length(config: ModelConfig, hf: HfConfig, max_model_len: int | None) -> ModelConfig:
    """The model for that many tokens, where a length is asked for; windows that hold them all are none.

    Raises:
        StartupError: the model does not reach it.
    """
    length = context_length(hf, max_model_len)
    inv_freq, rope_scale = inverse_frequencies(hf, config.head_dim, length)
    windows = tuple(None if window is None or window >= length else window for window in config.windows)
    _require(all(window is None or window > 0 for window in windows), f"sliding_window must be above 0, got {windows}")
    return replace(config, max_model_len=length, inv_freq=inv_freq, rope_scale=rope_scale, windows=windows)


def layer_windows(hf: HfConfig) -> tuple[int | None, ...]:
    """Sliding windows by layer, for families whose `layer_types` say which layers slide."""
    return tuple(hf.sliding_window if kind == "sliding_attention" else None for kind in hf.layer_types)


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise StartupError(f"model configuration: {complaint}")
