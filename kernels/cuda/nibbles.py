"""4-bit codes as numbers, for Triton kernels: in assembly one and a half instructions each, where Triton takes five."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

BASES: Final[Mapping[torch.dtype, int]] = MappingProxyType({torch.bfloat16: 128, torch.float16: 1024})
"""From these on, integers are as far apart as the numbers of a type."""


def _unpacking(base: str, one: str, kind: str) -> str:
    """Of four bytes each 4-bit code plus an offset: a code behind the bits of a power of two is a number."""
    return f"""{{
        .reg .b32 low, high, one;
        mov.b32 one, {one};
        prmt.b32 low, $4, 0, 0x4140;
        prmt.b32 high, $4, 0, 0x4342;
        lop3.b32 $0, low, 0x000F000F, {base}, 0xEA;
        lop3.b32 $1, high, 0x000F000F, {base}, 0xEA;
        shr.u32 low, low, 4;
        shr.u32 high, high, 4;
        lop3.b32 $2, low, 0x000F000F, {base}, 0xEA;
        lop3.b32 $3, high, 0x000F000F, {base}, 0xEA;
        fma.rn.{kind} $0, $0, one, $5;
        fma.rn.{kind} $1, $1, one, $6;
        fma.rn.{kind} $2, $2, one, $5;
        fma.rn.{kind} $3, $3, one, $6;
    }}"""


_BFLOAT16: tl.constexpr = tl.constexpr(_unpacking("0x43004300", "0x3F803F80", "bf16x2"))
_FLOAT16: tl.constexpr = tl.constexpr(_unpacking("0x64006400", "0x3C003C00", "f16x2"))


@triton.jit
def nibbles(codes, offset, with_assembly: tl.constexpr):  # type: ignore[no-untyped-def]
    """The lower and the upper codes of uint8, plus 128 in bfloat16 or 1024 in float16, plus an offset.

    Args:
        offset: of the type of the result; as large as the codes, or 1 in some dimensions.
    """
    if with_assembly:
        assembly: tl.constexpr = _BFLOAT16 if offset.dtype == tl.bfloat16 else _FLOAT16
        lower, upper = tl.inline_asm_elementwise(
            assembly, "=&r,=&r,=&r,=&r,r,r,r", [codes, tl.broadcast_to(offset, codes.shape)],
            dtype=(offset.dtype, offset.dtype), is_pure=True, pack=4,
        )  # fmt: skip
    else:
        wide = offset.to(tl.float32) + (128.0 if offset.dtype == tl.bfloat16 else 1024.0)
        lower, upper = ((codes & 15) + wide).to(offset.dtype), ((codes >> 4) + wide).to(offset.dtype)
    return lower, upper


def has_assembly(x: Tensor) -> bool:
    """Whether the device of x has these instructions."""
    return x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 0)
