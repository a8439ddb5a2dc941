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
        fma.rn.{kind} $2, $2, one, $7;
        fma.rn.{kind} $3, $3, one, $8;
    }}"""


_BFLOAT16: tl.constexpr = tl.constexpr(_unpacking("0x43004300", "0x3F803F80", "bf16x2"))
_FLOAT16: tl.constexpr = tl.constexpr(_unpacking("0x64006400", "0x3C003C00", "f16x2"))


@triton.jit
def nibbles(codes, first, second, has_assembly: tl.constexpr):  # type: ignore[no-untyped-def]
    """The lower and the upper codes of uint8 [outs, span], plus 128 in bfloat16 or 1024 in float16, plus an offset.

    Args:
        first, second: offsets of the lower and of the upper codes, [outs, 1].
    """
    if has_assembly:
        assembly: tl.constexpr = _BFLOAT16 if first.dtype == tl.bfloat16 else _FLOAT16
        first, second = tl.broadcast_to(first, codes.shape), tl.broadcast_to(second, codes.shape)
        lower, upper = tl.inline_asm_elementwise(
            assembly, "=&r,=&r,=&r,=&r,r,r,r,r,r", [codes, first, second], dtype=(first.dtype, first.dtype),
            is_pure=True, pack=4,
        )  # fmt: skip
    else:
        base: tl.constexpr = 128.0 if first.dtype == tl.bfloat16 else 1024.0
        lower = ((codes & 15) + (first.to(tl.float32) + base)).to(first.dtype)
        upper = ((codes >> 4) + (second.to(tl.float32) + base)).to(first.dtype)
    return lower, upper


def has_assembly(x: Tensor) -> bool:
    """Whether the device of x has these instructions."""
    return x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 0)
