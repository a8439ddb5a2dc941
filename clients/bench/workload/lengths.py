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

MAX_LENGTH = 10_000_000
_LIMIT = f"must be a number, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA, with lengths of 1 to {MAX_LENGTH}"


class Lengths(Protocol):
    """A distribution of lengths in tokens."""

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """`count` lengths of 1 to `MAX_LENGTH`, shape (count,)."""


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
        return np.clip(drawn, 1, MAX_LENGTH).astype(np.int64)


def parse_lengths(text: str, field: str) -> Lengths:
    """A distribution from its notation.

    Raises:
        InvalidRequest: it is none; `field` is named.
    """
    match text.split(":"):
        case [length] if _is_length(length):
            return Fixed(int(length))
        case ["uniform", low, high] if _is_length(low) and _is_length(high) and int(low) <= int(high):
            return Uniform(int(low), int(high))
        case ["lognormal", median, sigma] if _is_between(median, 1, MAX_LENGTH) and _is_between(sigma, 0, 100):
            return LogNormal(float(median), float(sigma))
    raise InvalidRequest(field, text, _LIMIT)


def _is_length(text: str) -> bool:
    return text.isdecimal() and len(text) <= len(str(MAX_LENGTH)) and 1 <= int(text) <= MAX_LENGTH


def _is_between(text: str, least: float, most: float) -> bool:
    try:
        return least <= float(text) <= most
    except ValueError:
        return False
