"""Rotary frequencies and the context that they reach, from a Hugging Face configuration."""

import math
from collections.abc import Mapping
from typing import Any, Final

from quire.engine.api.errors import StartupError
from quire.engine.json_file import shortened
from quire.engine.models.config import DecoderConfig
from quire.engine.models.rope_scaling import SCALINGS

# Of a scaling, those that formulas divide by or take logarithms of.
_POSITIVE: Final = (
    "rope_theta", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow",
    "attention_factor", "partial_rotary_factor",
)  # fmt: skip


def context_length(hf: DecoderConfig, asked: int | None) -> int:
    """Tokens that one sequence may have: what is asked for, or else what `max_position_embeddings` says.

    A scaling of the rotary positions may reach further. "linear" and "dynamic" reach `factor` times
    `max_position_embeddings`, which transformers documents as the length before scaling. "yarn" reaches `factor` times
    `original_max_position_embeddings`. The other kinds reach `max_position_embeddings`: with "llama3" it is the length
    after scaling. vLLM derives its limits alike (`_get_and_verify_max_len`).

    Raises:
        StartupError: more is asked for than the model reaches; the message has the numbers.
    """
    own = hf.max_position_embeddings
    if asked is None or asked <= own:
        return own if asked is None else asked
    kind, parameters = _scaling(hf.rope_parameters)
    name = "original_max_position_embeddings" if kind == "yarn" else "max_position_embeddings"
    length = parameters.get(name, own) if kind == "yarn" else own
    factor = (parameters.get("factor") or 1) if kind in ("linear", "dynamic", "yarn") else 1
    stretched = int(length * factor)
    if asked <= stretched:
        return asked
    if stretched > own:
        limit = (
            f"{stretched}, which is {factor} times the model's {name} of {length} ({kind} scaling of rotary positions)"
        )
    else:
        limit = f"{own}, the model's max_position_embeddings; its {kind} rotary positions reach no further"
    raise StartupError(f"max_model_len: must be at most {limit}, got {asked}")


def inverse_frequencies(
    config: DecoderConfig, dim: int, num_positions: int, rope: Mapping[str, Any] | None = None
) -> tuple[tuple[float, ...], float]:
    """Radians per position of each of the dim / 2 pairs that are rotated, and the factor of cosines and sines.

    Args:
        num_positions: tokens that one sequence may have. "dynamic" and "longrope" depend on it: the frequencies are
            those that transformers gives to a sequence of that many tokens. They hold for all sequences, because
            sequences share cached keys.
        rope: parameters of the layers in question; None: those of the model.

    Raises:
        StartupError: the kind of scaling is not supported, its numbers are none, or it rotates another part of the
            head.
    """
    kind, parameters = _scaling(config.rope_parameters if rope is None else rope)
    part = parameters.get("partial_rotary_factor")
    if kind != "default" and part is not None and int(config.head_dim * part) != dim:
        raise StartupError(f"rotary positions must span {dim} of the head of {config.head_dim}, got a part of {part}")
    try:
        inv_freq, scale = SCALINGS[kind](parameters, dim, config.max_position_embeddings, num_positions)
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise StartupError(f"rope_parameters: no {kind} frequencies can be made of them: {error!r}") from error
    if not (inv_freq.isfinite().all() and math.isfinite(scale)):
        raise StartupError(f"rope_parameters: {kind} frequencies must be finite, got {shortened(inv_freq.tolist())}")
    return tuple(inv_freq.tolist()), float(scale)


def _scaling(parameters: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The kind and its parameters, whose numbers are numbers."""
    kind = parameters.get("rope_type")
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise StartupError(f"rope_type must be one of {', '.join(SCALINGS)}, got {shortened(kind)}")
    if parameters["rope_theta"] is None:
        raise StartupError("rope_parameters: rope_theta must be a number above 0, got None")
    for name in _POSITIVE:
        if parameters.get(name) is not None and not _is_positive(parameters[name]):
            raise StartupError(f"rope_parameters: {name} must be a number above 0, got {shortened(parameters[name])}")
    factor = parameters.get("factor")
    if factor is not None and not (_is_positive(factor) and factor >= 1):
        raise StartupError(f"rope_parameters: factor must be a number of at least 1, got {shortened(factor)}")
    return kind, parameters


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
