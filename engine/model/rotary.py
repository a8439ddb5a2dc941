"""Rotary frequencies and the context that they reach, from a Hugging Face configuration; the table of their cosines."""

import math
from typing import Any, Final

import torch
from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.engine.json_file import shortened
from quire.engine.model.hf_config import HfConfig
from quire.engine.model.rope_scaling import SCALINGS

# Of a scaling, those that formulas divide by or take logarithms of.
_POSITIVE: Final = (
    "rope_theta", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow",
    "attention_factor",
)  # fmt: skip


def context_length(hf: HfConfig, asked: int | None) -> int:
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
    kind, parameters = _scaling(hf)
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


def inverse_frequencies(hf: HfConfig, head_dim: int, num_positions: int) -> tuple[tuple[float, ...], float]:
    """Radians per position of each of the head_dim / 2 pairs, and the factor of cosines and sines.

    Args:
        num_positions: tokens that one sequence may have. Beyond `max_position_embeddings`, "dynamic" depends on it:
            its frequencies are those that transformers gives to a sequence of that many tokens. They hold for all
            sequences, because sequences share cached keys.

    Raises:
        StartupError: the kind of scaling is not supported, its numbers are none, or it rotates only a part of the head.
    """
    kind, parameters = _scaling(hf)
    part = parameters.get("partial_rotary_factor")
    if kind != "default" and part not in (None, 1):
        raise StartupError(f"rotary positions must span the head of {head_dim}, got a part of {shortened(part)}")
    try:
        inv_freq, scale = SCALINGS[kind](parameters, head_dim, hf.max_position_embeddings, num_positions)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StartupError(f"rope_parameters: no {kind} frequencies can be made of them: {error!r}") from error
    if not (inv_freq.isfinite().all() and math.isfinite(scale)):
        raise StartupError(f"rope_parameters: {kind} frequencies must be finite, got {shortened(inv_freq.tolist())}")
    return tuple(inv_freq.tolist()), float(scale)


def cos_sin_table(inv_freq: tuple[float, ...], scale: float, num_positions: int, device: torch.device) -> Tensor:
    """[num_positions, head_dim] float32: scaled cosines in the first half of a row, sines in the second."""
    frequencies = torch.tensor(inv_freq, dtype=torch.float32, device=device)
    angles = torch.arange(num_positions, dtype=torch.float32, device=device)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1) * scale


def _scaling(hf: HfConfig) -> tuple[str, dict[str, Any]]:
    """The kind and its parameters, whose numbers are numbers."""
    parameters = hf.rope_parameters
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
