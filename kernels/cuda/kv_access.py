"""For Triton kernels that read or write the cache: the rounding of `kv_append`, in the same bits on every GPU.

Float8 is read two numbers at a time, as 16 bits. So tensor cores' operands come from shared memory in the instructions
that 16-bit numbers have, and bits become float16 in registers, one and a half instructions for two. Conversion to
float8_e4m3fn is done on integers: Ampere has no instruction for it.
"""

from typing import Final

import torch
import triton
from torch import Tensor
from triton import language as tl

# Of the first GPUs that convert float8 in instructions.
_FLOAT8_CAPABILITY: Final = (8, 9)


def _half(part: str) -> str:
    """Of two pairs in one register: both first numbers, or both second ones, become float16."""
    return f"""{{
        .reg .b32 sorted;
        .reg .b16 first, second;
        prmt.b32 sorted, $1, 0, 0x3120;
        mov.b32 {{first, second}}, sorted;
        cvt.rn.f16x2.e4m3x2 $0, {part};
    }}"""


_FIRST: tl.constexpr = tl.constexpr(_half("first"))
_SECOND: tl.constexpr = tl.constexpr(_half("second"))


def readable(layer_kv: Tensor) -> Tensor:
    """The view that kernels read: of float8 pairs of numbers, in int16 if the device has instructions for them, and in
    uint16 otherwise."""
    if layer_kv.dtype != torch.float8_e4m3fn:
        return layer_kv
    return layer_kv.view(torch.int16 if _converts_float8(layer_kv.device) else torch.uint16)


def writable(layer_kv: Tensor) -> Tensor:
    """The view that `store` writes to."""
    return layer_kv.view(torch.uint8) if layer_kv.dtype == torch.float8_e4m3fn else layer_kv


@triton.constexpr_function
def numbers_of(dtype: tl.dtype) -> int:
    """How many numbers an element of a `readable` view has."""
    return 2 if dtype in (tl.int16, tl.uint16) else 1


@triton.jit
def halves(pairs):  # type: ignore[no-untyped-def]
    """The first and the second numbers of pairs of float8, in float16. Without instructions NaN becomes 480."""
    if pairs.dtype == tl.int16:
        first = tl.inline_asm_elementwise(_FIRST, "=r,r", [pairs], dtype=tl.float16, is_pure=True, pack=2)
        second = tl.inline_asm_elementwise(_SECOND, "=r,r", [pairs], dtype=tl.float16, is_pure=True, pack=2)
    else:
        # The sign, and behind it exponent and fraction where float16 has them; the exponents' biases differ by 8.
        first = (((pairs & 0x7F) << 7) | ((pairs & 0x80) << 8)).to(tl.uint16).to(tl.float16, bitcast=True) * 256
        second = (((pairs & 0x7F00) >> 1) | (pairs & 0x8000)).to(tl.uint16).to(tl.float16, bitcast=True) * 256
    return first, second


@triton.jit
def queries_for(q, cache_ptr):  # type: ignore[no-untyped-def]
    """(queries as operands of products with the cache, what they were divided by): of [queries, width] a tuple of one,
    or of two that go with `halves`; and float32 [queries].

    Such halves are float16, and queries are divided so that they fit.
    """
    divisor = tl.full([q.shape[0]], 1.0, tl.float32)
    if numbers_of(cache_ptr.dtype.element_ty) == 2:
        wide = q.to(tl.float32)
        divisor = tl.maximum(tl.max(tl.abs(wide), axis=1), 1e-30)
        narrow = (wide / divisor[:, None]).to(tl.float16)
        operands = tl.split(tl.reshape(narrow, [q.shape[0], q.shape[1] // 2, 2]))
    else:
        operands = (q,)
    return operands, divisor


@triton.jit
def store(place, x, mask):  # type: ignore[no-untyped-def]
    """Stores x, rounded to the cache's dtype."""
    if place.dtype.scalar.element_ty == tl.uint8:
        tl.store(place, _float8(x.to(tl.float32)), mask=mask)
    else:
        tl.store(place, x.to(place.dtype.scalar.element_ty), mask=mask)


@triton.jit
def _float8(x):  # type: ignore[no-untyped-def]
    """The bits of the nearest number, of two the even one, at most 448."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    # 120 is what the exponents' biases differ by.
    normal = tl.minimum(((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3), 0x7E)
    # Below 2^-6 numbers are 2^-9 apart: after 512 times as much has been added to 2^23, the last bits count them.
    small = (tl.minimum(tl.abs(x), 1.0) * 512 + 8388608.0).to(tl.int32, bitcast=True) & 0xFF
    number = tl.where(size < 0x3C800000, small, normal)
    return (tl.where(size > 0x7F800000, 0x7F, number) | ((bits >> 24) & 0x80)).to(tl.uint8)


def _converts_float8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FLOAT8_CAPABILITY
