"""Rows of a matrix by their numbers: an embedding, or the hidden states of the tokens that sample.

matrix      [num_rows, size]
rows        [n] int64
result      [n, size]
"""

from torch import Tensor


def take_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    """matrix[rows], [n, size]."""
    return matrix.index_select(0, rows)
