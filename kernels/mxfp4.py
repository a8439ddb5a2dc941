"""MXFP4: codes of 4 bits that 32 share a scale (OCP Microscaling Formats, v1.0, 2023), widened when they are loaded."""

from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 32
"""Numbers that share a scale."""

# Of e2m1: a sign, two bits of exponent, one of mantissa.
_VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_BIAS: Final = 127


def widened(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """[rows, columns] of `dtype`; exact where it has 8 bits of exponent.

    Args:
        blocks: uint8 [rows, columns / 32, 16], two codes a byte, the lower four bits first.
        scales: uint8 [rows, columns / 32], exponents of 2 with a bias of 127.
    """
    values = torch.tensor(_VALUES, dtype=dtype, device=blocks.device)
    numbers = torch.stack((values[(blocks & 0xF).long()], values[(blocks >> 4).long()]), dim=-1).flatten(-2)
    return torch.ldexp(numbers, scales.int()[..., None] - _BIAS).to(dtype).flatten(-2)
