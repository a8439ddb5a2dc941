"""For Triton kernels that read or write the cache: the rounding of `kv_append`, in the same bits on every GPU.

Conversion to float8_e4m3fn is done on integers: Ampere has no instruction for it.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl


def readable(layer_kv: Tensor) -> Tensor:
    """The view that `load` reads: of float8 its bits, where the device has no instruction for them."""
    narrow = layer_kv.dtype == torch.float8_e4m3fn
    return writable(layer_kv) if narrow and not _converts_float8(layer_kv.device) else layer_kv


def writable(layer_kv: Tensor) -> Tensor:
    """The view that `store` writes to."""
    return layer_kv.view(torch.uint8) if layer_kv.dtype == torch.float8_e4m3fn else layer_kv


@triton.jit
def load(place, mask, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """What is stored, as `dtype`, and zeros outside the mask. Where only bits of float8 are read, NaN becomes 480."""
    x = tl.load(place, mask=mask, other=0.0)
    if place.dtype.scalar.element_ty == tl.uint8:
        # The sign, and behind it exponent and fraction where float32 has them; the exponents' biases differ by 120.
        bits = (x.to(tl.int8, bitcast=True).to(tl.int32) << 20) & -0x78100000
        x = bits.to(tl.float32, bitcast=True) * 1.329227995784916e36
    return x.to(dtype)


@triton.jit
def queries_for(q, cache_ptr):  # type: ignore[no-untyped-def]
    """(queries of the type that products with the cache are computed in, what they were divided by); [queries, width]
    and float32 [queries].

    Two numbers of float8 become float16 in one instruction, and bfloat16 in four; queries are divided so that they fit.
    """
    divisor = tl.full([q.shape[0]], 1.0, tl.float32)
    if cache_ptr.dtype.element_ty != q.dtype:
        wide = q.to(tl.float32)
        divisor = tl.maximum(tl.max(tl.abs(wide), axis=1), 1e-30)
        q = (wide / divisor[:, None]).to(tl.float16)
    return q, divisor


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
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
