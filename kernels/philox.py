"""Philox4x32-10, a counter-based random generator: the n-th number is computed, not waited for.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from typing import TypeAlias

import torch
from torch import Tensor

Words4: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
Words2: TypeAlias = tuple[Tensor, Tensor]

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def philox4x32(counter: Words4, key: Words2) -> Words4:
    """Ten rounds. Every word is an int64 tensor of the same shape holding an unsigned 32-bit value."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """One number in [0, 1) per row, float64; seed and position are int64 tensors of one shape.

    It has 52 random bits, not 53: then u * total < total holds after rounding too, for any positive total.
    """
    zero = torch.zeros_like(position)
    counter = (position & _MASK, (position >> 32) & _MASK, zero, zero)
    high, low, _, _ = philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))
    return ((high << 20) | (low >> 12)).double() * 2.0**-52


def _multiply(word: Tensor, factor: int) -> Words2:
    """The upper and the lower 32 bits of a product; int64 wraps around, which leaves the 64 bits right."""
    product = word * factor
    return (product >> 32) & _MASK, product & _MASK
