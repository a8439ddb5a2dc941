"""For Triton kernels that write into the cache: the rounding of `kv_append`, in the same bits on every GPU.

Conversion to float8_e4m3fn is done on integers: Ampere has no instruction for it.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl


def writable(layer_kv: Tensor) -> Tensor:
    """The view that `store` writes to."""
    return layer_kv.view(torch.uint8) if layer_kv.dtype == torch.float8_e4m3fn else layer_kv


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
