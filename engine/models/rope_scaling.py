"""Rotary frequencies of each kind of scaling, as `transformers` computes them, to the last bit of float32.

A frequency is in radians per position; pair i of a head of `head_dim` has theta^(-2i / head_dim) without scaling.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

# The parameters, head_dim, the model's own number of positions, and that of the longest sequence; the frequencies and
# the factor of cosines and sines.
_Scaling = Callable[[Mapping[str, Any], int, int, int], tuple[Tensor, float]]


def _plain(theta: float, head_dim: int) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def _default(rope: Mapping[str, Any], head_dim: int, own: int, longest: int) -> tuple[Tensor, float]:
    return _plain(rope["rope_theta"], head_dim), 1.0


def _linear(rope: Mapping[str, Any], head_dim: int, own: int, longest: int) -> tuple[Tensor, float]:
    """Positions are divided by a factor (kaiokendev)."""
    return _plain(rope["rope_theta"], head_dim) / rope["factor"], 1.0


def _dynamic(rope: Mapping[str, Any], head_dim: int, own: int, longest: int) -> tuple[Tensor, float]:
    """The base grows with the length (NTK-aware scaling, bloc97 and emozilla)."""
    factor = rope["factor"]
    stretch = (factor * max(longest, own) / own) - (factor - 1)
    return _plain(rope["rope_theta"] * stretch ** (head_dim / (head_dim - 2)), head_dim), 1.0


def _llama3(rope: Mapping[str, Any], head_dim: int, own: int, longest: int) -> tuple[Tensor, float]:
    """Low frequencies are divided by a factor, high ones stay, those between are interpolated (Llama 3.1)."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    inv_freq = _plain(rope["rope_theta"], head_dim)
    wavelength = 2 * math.pi / inv_freq
    is_low, is_high = wavelength > original / low, wavelength < original / high
    scaled = torch.where(is_low, inv_freq / factor, inv_freq)
    smooth = (original / wavelength - low) / (high - low)
    between = (1 - smooth) * scaled / factor + smooth * scaled
    return torch.where(~is_low & ~is_high, between, scaled), 1.0


def _yarn(rope: Mapping[str, Any], head_dim: int, own: int, longest: int) -> tuple[Tensor, float]:
    """YaRN (https://arxiv.org/abs/2309.00071): from interpolation to none along the pairs, and a factor."""
    theta, original = rope["rope_theta"], rope["original_max_position_embeddings"]
    factor = rope["factor"] if rope["factor"] is not None else own / original

    def pair_with(rotations: float) -> float:
        return (head_dim * math.log(original / (rotations * 2 * math.pi))) / (2 * math.log(theta))

    first, last = pair_with(rope.get("beta_fast") or 32), pair_with(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    if first == last:
        last += 0.001  # so that nothing is divided by 0
    ramp = torch.clamp((torch.arange(head_dim // 2, dtype=torch.float32) - first) / (last - first), 0, 1)
    kept = 1 - ramp
    wavelength = theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    return 1.0 / (factor * wavelength) * (1 - kept) + 1.0 / wavelength * kept, _yarn_scale(rope, factor)


def _longrope(rope: Mapping[str, Any], head_dim: int, own: int, longest: int) -> tuple[Tensor, float]:
    """LongRoPE (https://arxiv.org/abs/2402.13753): a divisor for each pair, others where sequences are long."""
    original = rope["original_max_position_embeddings"]
    divisors = torch.tensor(rope["long_factor" if longest > original else "short_factor"], dtype=torch.float32)
    wavelength = rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    factor = rope["factor"] if rope.get("factor") is not None else own / original
    if (scale := rope.get("attention_factor")) is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return 1.0 / (divisors * wavelength), scale


def _yarn_scale(rope: Mapping[str, Any], factor: float) -> float:
    if (given := rope.get("attention_factor")) is not None:
        return float(given)
    scale, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
    if scale and all_dim:
        return magnitude(factor, scale) / magnitude(factor, all_dim)
    return magnitude(factor, 1)


def magnitude(factor: float, scale: float) -> float:
    """What YaRN multiplies attention with, of positions that are stretched by a factor."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


SCALINGS: Final[Mapping[str, _Scaling]] = MappingProxyType(
    {
        "default": _default,
        "linear": _linear,
        "dynamic": _dynamic,
        "llama3": _llama3,
        "yarn": _yarn,
        "longrope": _longrope,
    }
)
