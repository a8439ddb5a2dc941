"""The `ModelConfig`: all that distinguishes one decoder model from another, under one name for all families."""

from dataclasses import dataclass
from typing import Any

from quire.engine.api.errors import StartupError
from quire.engine.model.rotary import inverse_frequencies


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A pre-norm decoder with rotary positions, grouped queries and SwiGLU blocks.

    Attributes:
        vocab_size, hidden_size, intermediate_size, num_layers, num_qo_heads, num_kv_heads, head_dim: sizes.
        max_model_len: positions that the model was made for.
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


def common_config(hf: Any) -> ModelConfig:
    """Settings that all families call by the same names; a family adds its own with `dataclasses.replace`.

    Raises:
        StartupError: the model has something that no family here computes.
    """
    _require(hf.hidden_act == "silu", f"hidden_act must be silu, got {hf.hidden_act!r}")
    quantization = getattr(hf, "quantization_config", None)
    _require(quantization is None, f"quantized weights are not supported, got {quantization!r}")
    num_heads, num_kv_heads = hf.num_attention_heads, hf.num_key_value_heads
    _require(num_heads % num_kv_heads == 0, f"{num_heads} query heads do not divide among {num_kv_heads} key heads")
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // num_heads
    inv_freq, rope_scale = inverse_frequencies(hf, head_dim)
    return ModelConfig(
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        num_layers=hf.num_hidden_layers,
        num_qo_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_model_len=hf.max_position_embeddings,
        rms_norm_eps=hf.rms_norm_eps,
        inv_freq=inv_freq,
        rope_scale=rope_scale,
        tied_embeddings=hf.tie_word_embeddings,
        windows=(None,) * hf.num_hidden_layers,
    )


def layer_windows(hf: Any) -> tuple[int | None, ...]:
    """Sliding windows by layer, for families whose `layer_types` say which layers slide."""
    return tuple(hf.sliding_window if kind == "sliding_attention" else None for kind in hf.layer_types)


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise StartupError(f"model configuration: {complaint}")
