"""Token ids from outside, checked against a vocabulary."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.errors import InvalidRequest
from quire.engine.arrays import Int32Array


def check_ids(field: str, ids: NDArray[Any], end: int) -> None:
    """Raises `InvalidRequest` for the first integer that is not 0 to `end` - 1."""
    outside = np.flatnonzero((ids < 0) | (ids >= end))
    if outside.size:
        index = int(outside[0])
        raise InvalidRequest(f"{field}[{index}]", int(ids[index]), f"must be 0 to {end - 1}")


def token_array(token_ids: Any, vocab_size: int, field: str = "token_ids") -> Int32Array:
    """Token ids from outside as int32, shape (num_tokens,).

    Raises:
        InvalidRequest: they are no integers, or an id is not in the vocabulary.
    """
    try:
        wide = np.asarray(token_ids)  # of whatever width the values need
    # Lists of different lengths; tensors of a GPU or with gradients.
    except (ValueError, TypeError, RuntimeError):
        raise InvalidRequest(field, token_ids, "must be a flat list of integers") from None
    # Objects are integers beyond 64 bits, or anything; beside integers, truth became one.
    has_truth = isinstance(token_ids, (list, tuple)) and bool in map(type, token_ids)
    if has_truth or wide.ndim != 1 or (wide.size and not _are_integers(wide)):
        raise InvalidRequest(field, token_ids, "must be a flat list of integers")
    check_ids(field, wide, vocab_size)
    return wide.astype(np.int32)


def _are_integers(values: NDArray[Any]) -> bool:
    if values.dtype.kind == "O":
        return all(isinstance(each, int) for each in values)
    return values.dtype.kind in "iu"
