"""Matrices of 4-bit integers in panels, as csrc/linear.cpp describes them."""

import torch
from torch import Tensor

from quire.kernels.coded_weight import INT4_HALF, CodedWeight, Weight
from quire.kernels.native.panels import PANEL, in_panels


def is_int4(weight: Weight) -> bool:
    """Whether the codes can be kept in 4 bits: columns of a group come in pairs, and zeros are codes, too."""
    if not isinstance(weight, CodedWeight) or weight.bits != 4 or weight.group % 2:
        return False
    return weight.has_byte_zeros


def packed_codes(weight: CodedWeight, is_gated: bool) -> Tensor:
    """uint8 [panels, in / 2, PANEL]: of two columns of the matrix, the first in the lower half."""
    codes = in_panels(weight.codes + INT4_HALF, is_gated).view(-1, PANEL, weight.shape[1] // 2, 2).to(torch.uint8)
    return (codes[..., 0] | codes[..., 1] << 4).transpose(1, 2).contiguous()


def scales_and_zeros(weight: CodedWeight, is_gated: bool) -> tuple[Tensor, Tensor]:
    """[panels, groups, PANEL] each, float32 and uint8; zeros are those of codes from 0 to 15."""
    zeros = torch.zeros_like(weight.scales) if weight.zeros is None else weight.zeros
    return _by_group(weight.scales.float(), is_gated), _by_group((zeros + INT4_HALF).to(torch.uint8), is_gated)


def _by_group(values: Tensor, is_gated: bool) -> Tensor:
    return in_panels(values, is_gated).view(-1, PANEL, values.shape[1]).transpose(1, 2).contiguous()
