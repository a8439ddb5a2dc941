"""Matrices that are kept in narrow codes, and how a matrix is brought into them.

codes[o, i] stands for (codes[o, i] - zeros[o, g]) * scales[o, g], where g is the group of column i; all groups are as
wide. What is multiplied with such a matrix keeps its type, unless a backend says otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

import torch
from torch import Tensor

INT8_LARGEST: Final = 127
INT4_GROUP: Final = 32
"""Columns that share a scale where this module chooses 4-bit integers."""

INT4_HALF: Final = 8
"""What brings 4-bit codes to 0 to 15."""

_INT4_STEPS, _MOST_BYTE = 15, 255
_FLOAT8: Final = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True, eq=False)
class CodedWeight:
    """Attributes:
    codes: int8 or float8_e4m3fn [out, in].
    scales: float32 [out, num_groups].
    zeros: float32 [out, num_groups]; None: all 0.
    dtype: of what is multiplied with it.
    bits: of a code; 4: codes are -8 to 7.
    """

    codes: Tensor
    scales: Tensor
    dtype: torch.dtype
    zeros: Tensor | None = None
    bits: int = 8

    @property
    def shape(self) -> torch.Size:
        """Of the matrix."""
        return self.codes.shape

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    @property
    def is_plain(self) -> bool:
        """Whether each row has one scale, and no zero."""
        return self.scales.shape[1] == 1 and self.zeros is None

    @property
    def has_byte_zeros(self) -> bool:
        """Whether zeros of 4-bit codes fit in a byte, as those of codes from 0."""
        if self.zeros is None:
            return True
        shifted = self.zeros + INT4_HALF
        return bool(((shifted == shifted.round()) & (shifted >= 0) & (shifted <= _MOST_BYTE)).all())

    def widened(self, dtype: torch.dtype | None = None) -> Tensor:
        """[out, in] of a type, or of `dtype`."""
        wide = self.codes.float().unflatten(1, (self.scales.shape[1], -1))  # type: ignore[no-untyped-call]
        if self.zeros is not None:
            wide = wide - self.zeros[..., None]
        widened: Tensor = (wide * self.scales[..., None]).flatten(1).to(dtype or self.dtype)
        return widened

    def rows(self, order: Sequence[int]) -> "CodedWeight":
        """Some rows, in an order."""
        at = list(order)
        zeros = None if self.zeros is None else self.zeros[at]
        return replace(self, codes=self.codes[at], scales=self.scales[at], zeros=zeros)


Weight: TypeAlias = Tensor | CodedWeight
"""A constant matrix, [out, in]."""


def int8_parts(weight: Weight) -> tuple[Tensor, Tensor | None]:
    """For kernels that read int8: the codes and the scales of rows, float32 [out]; or the matrix itself, or what other
    codes stand for, and None."""
    if not isinstance(weight, CodedWeight):
        return weight, None
    if weight.is_plain and weight.codes.dtype == torch.int8:
        return weight.codes, weight.scales[:, 0]
    return weight.widened(), None


def merged(parts: Sequence[Weight]) -> Weight:
    """One matrix of the rows of several; of parts of different kinds, a wide one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, CodedWeight) and all(_is_alike(first, part) for part in parts):
        coded = [part for part in parts if isinstance(part, CodedWeight)]
        zeros = [part.zeros for part in coded if part.zeros is not None]
        return replace(
            first,
            codes=torch.cat([part.codes.view(torch.int8) for part in coded]).view(first.codes.dtype),
            scales=torch.cat([part.scales for part in coded]),
            zeros=torch.cat(zeros) if zeros else None,
        )
    return torch.cat([part.widened() if isinstance(part, CodedWeight) else part for part in parts])


def int8(weight: Tensor) -> CodedWeight:
    """The nearest 8-bit integers, symmetric around zero, with a scale for each row."""
    wide = weight.float()
    scales = wide.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / INT8_LARGEST
    codes = (wide / scales).round_().clamp_(-INT8_LARGEST, INT8_LARGEST).to(torch.int8)
    return CodedWeight(codes, scales, weight.dtype)


def fp8(weight: Tensor) -> CodedWeight:
    """The nearest e4m3 numbers with a scale for each row."""
    wide = weight.float()
    largest = torch.finfo(_FLOAT8).max
    scales = wide.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / largest
    return CodedWeight((wide / scales).clamp_(-largest, largest).to(_FLOAT8), scales, weight.dtype)


def int4(weight: Tensor) -> CodedWeight:
    """The nearest 4-bit integers with a scale and a zero for each group of `INT4_GROUP` columns of a row, from its
    lowest to its highest number; 8-bit ones if the columns are no whole groups.
    """
    if weight.shape[1] % INT4_GROUP:
        return int8(weight)
    wide = weight.float().unflatten(1, (-1, INT4_GROUP))  # type: ignore[no-untyped-call]
    lowest, highest = wide.amin(2, keepdim=True).clamp_max(0), wide.amax(2, keepdim=True).clamp_min(0)
    scales = ((highest - lowest) / _INT4_STEPS).clamp_min(torch.finfo(torch.float32).tiny)
    zeros = (-lowest / scales).round_()
    codes = (wide / scales + zeros).round_().clamp_(0, _INT4_STEPS).flatten(1) - INT4_HALF
    return CodedWeight(codes.to(torch.int8), scales[..., 0], weight.dtype, zeros[..., 0] - INT4_HALF, bits=4)


Coding: TypeAlias = Callable[[Tensor], CodedWeight]
"""Brings a matrix of floating point into codes."""

CODINGS: Final[Mapping[str, Coding]] = MappingProxyType({"int8": int8, "int4": int4, "fp8": fp8})
"""By name, as settings call them."""


def _is_alike(first: CodedWeight, other: Weight) -> bool:
    if not isinstance(other, CodedWeight):
        return False
    kind = (first.scales.shape[1], first.zeros is None, first.codes.dtype, first.bits)
    return kind == (other.scales.shape[1], other.zeros is None, other.codes.dtype, other.bits)
