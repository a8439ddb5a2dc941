"""What the Triton kernels of sampling share: numbers of a row, and of its position.

A token's *distance* is how far its logit is below the row's greatest, over the temperature; its weight is
exp(-distance). Distances are not negative: their bits are in order as integers.
"""

import triton
from triton import language as tl


@triton.jit
def ordered(x):  # type: ignore[no-untyped-def]
    """Integers in the order of float32 numbers: both zeros alike, NaN the greatest."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(x != x, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))


@triton.jit
def distance(x, top, temperature):  # type: ignore[no-untyped-def]
    """Distance of logits x from the top: 0 to inf at any temperature; rounded as the reference does, so that the order
    is the same.
    """
    return tl.div_rn(top - x, temperature)


@triton.jit
def weight(distances):  # type: ignore[no-untyped-def]
    """float64 of what float32 holds: only sums need more."""
    return tl.exp(-distances).to(tl.float64)


@triton.jit
def uniform(seed, position):  # type: ignore[no-untyped-def]
    """As `philox.uniform`: one number in [0, 1), float64."""
    low_word, high_word = position.to(tl.uint32), (position >> 32).to(tl.uint32)
    nothing = low_word ^ low_word
    high, low, _, _ = tl.philox(seed, low_word, high_word, nothing, nothing)
    return ((high.to(tl.int64) << 20) | (low >> 12).to(tl.int64)).to(tl.float64) / 4503599627370496.0


@triton.jit
def first_beyond(weights, before, goal, index):  # type: ignore[no-untyped-def]
    """The first index at which `before` and the weights up to there exceed the goal; 0x7FFFFFFF if none does.

    A sum of all that was rounded otherwise can hide the last one: it is up to the caller.
    """
    found = (before + tl.cumsum(weights, axis=0) > goal) & (weights > 0)
    return tl.min(tl.where(found, index, 0x7FFFFFFF), axis=0)


@triton.jit
def last_positive(weights, index):  # type: ignore[no-untyped-def]
    """The last index of a positive weight, or 0."""
    return tl.max(tl.where(weights > 0, index, 0), axis=0)
