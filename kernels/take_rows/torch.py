"""Reference in PyTorch."""

from torch import Tensor


def take_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    """matrix[rows], [n, size]."""
    return matrix.index_select(0, rows)
