"""Tokens that a feature names for rows of logits."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """One entry for each row and token that is named; all tensors are on the logits' device.

    Attributes:
        rows, tokens: int64 [n]: places in the logits.
        concerned: int64 [num_concerned], distinct: the rows that the feature looks at.
    """

    rows: Tensor
    tokens: Tensor
    concerned: Tensor
