"""Distributions of lengths, as they are written on the command line.

128                      every length is 128
uniform:64:256           64 to 256, both included
lognormal:128:0.5        median 128, standard deviation 0.5 of the logarithm
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.errors import InvalidRequest

_LIMIT = "must be a number, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA, with lengths of at least 1"


class Lengths(Protocol):
    """A distribution of lengths in tokens."""

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """`count` lengths of at least 1, shape (count,)."""


@dataclass(frozen=True, slots=True)
class Fixed:
    length: int

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        return np.full(count, self.length, np.int64)


@dataclass(frozen=True, slots=True)
class Uniform:
    low: int
    high: int

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        return rng.integers(self.low, self.high, count, endpoint=True)


@dataclass(frozen=True, slots=True)
class LogNormal:
    median: float
    sigma: float

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        drawn = np.rint(rng.lognormal(np.log(self.median), self.sigma, count))
        return np.maximum(drawn, 1).astype(np.int64)


def parse_lengths(text: str, field: str) -> Lengths:
    """A distribution from its notation.

    Raises:
        InvalidRequest: it is none; `field` is named.
    """
    match text.split(":"):
        case [length] if length.isdecimal() and int(length) > 0:
            return Fixed(int(length))
        case ["uniform", low, high] if low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high):
            return Uniform(int(low), int(high))
        case ["lognormal", median, sigma] if _at_least(median, 1) and _at_least(sigma, 0):
            return LogNormal(float(median), float(sigma))
    raise InvalidRequest(field, text, _LIMIT)


def _at_least(text: str, least: float) -> bool:
    try:
        return least <= float(text) < float("inf")
    except ValueError:
        return False
