"""Which tokens go on: behind the last layer's attention, no token needs another one any more."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

Pick: TypeAlias = Callable[[Tensor], Tensor]
"""[num_tokens, size] -> [num_rows, size]: those of the tokens that go on."""


def everything(x: Tensor) -> Tensor:
    """A `Pick` of all tokens."""
    return x
