"""Matrices of 8-bit integers with a scale for each row; what is multiplied with them keeps its type."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

LARGEST: Final = 127


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [out, in], float32 [out]) whose product is the nearest to `weight`, symmetric around zero."""
    wide = weight.float()
    scale = wide.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST
    return (wide / scale[:, None]).round_().clamp_(-LARGEST, LARGEST).to(torch.int8), scale


@dataclass(frozen=True, slots=True, eq=False)
class Int8Linear:
    """Implements `Linear` on any device: the reference. Widens the whole matrix at every call."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype

    @classmethod
    def pack(cls, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> "Int8Linear":
        """A `LinearMaker`."""
        return cls(*quantized(weight), bias, out_dtype)

    def __call__(self, x: Tensor) -> Tensor:
        product = torch.nn.functional.linear(x.float(), self.weight.float()) * self.scale
        return (product if self.bias is None else product + self.bias).to(self.out_dtype)
