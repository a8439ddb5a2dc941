"""Rotary frequencies, from a Hugging Face configuration, and the table of their cosines and sines."""

from typing import Any, Final

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from quire.engine.api.errors import StartupError

# Those whose frequencies stay the same up to the model's limit. "dynamic" is among them: it only departs from
# the default beyond max_position_embeddings, where no sequence goes.
ROPE_TYPES: Final = ("default", "linear", "dynamic", "llama3", "yarn")


def inverse_frequencies(hf: Any, head_dim: int) -> tuple[tuple[float, ...], float]:
    """Radians per position of each of the head_dim / 2 pairs, and the factor of cosines and sines.

    Raises:
        StartupError: the kind of scaling is not supported, or rotates only a part of the head.
    """
    parameters = hf.rope_parameters
    kind = parameters["rope_type"]
    if kind not in ROPE_TYPES:
        raise StartupError(f"model configuration: rope_type must be one of {', '.join(ROPE_TYPES)}, got {kind!r}")
    if kind == "default":
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        inv_freq, scale = 1.0 / parameters["rope_theta"] ** exponents, 1.0
    else:
        inv_freq, scale = ROPE_INIT_FUNCTIONS[kind](hf)
    if len(inv_freq) * 2 != head_dim:
        raise StartupError(
            f"model configuration: rotary positions must span the head of {head_dim}, got {2 * len(inv_freq)}"
        )
    return tuple(inv_freq.tolist()), float(scale)


def cos_sin_table(inv_freq: tuple[float, ...], scale: float, num_positions: int, device: torch.device) -> Tensor:
    """[num_positions, head_dim] float32: scaled cosines in the first half of a row, sines in the second."""
    frequencies = torch.tensor(inv_freq, dtype=torch.float32, device=device)
    angles = torch.arange(num_positions, dtype=torch.float32, device=device)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1) * scale
