"""The order of a matrix's rows in panels, which C++ reads."""

from typing import Final

import torch
from torch import Tensor

PANEL: Final = 32
"""Columns that are packed together; `kPanel` in tile.h."""


def in_panels(rows: Tensor, is_gated: bool) -> Tensor:
    """Filled up with zeros to whole panels; of a gated layer's rows, every panel gets gates and what they gate."""
    num_parts, rest = 2 if is_gated else 1, rows.shape[1:]
    parts = rows.view(num_parts, -1, *rest)
    width = PANEL // num_parts
    missing = parts.new_zeros(num_parts, -parts.shape[1] % width, *rest)
    filled = torch.cat((parts, missing), dim=1).view(num_parts, -1, width, *rest)
    return filled.transpose(0, 1).reshape(-1, *rest).contiguous()
