"""The `LinearMethod`: how one matrix is kept in a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from quire.engine.api.errors import StartupError
from quire.kernels.coded_weight import Weight

FLOATS: Final = ("F64", "F32", "F16", "BF16")
"""Types of plain numbers, as safetensors calls them."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What one tensor of a checkpoint must be."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = FLOATS


class LinearMethod(Protocol):
    """A format."""

    def tensors(self, out: int, size: int) -> Mapping[str, Stored]:
        """Of a matrix [out, size], by the last part of their names.

        Raises:
            StartupError: the format has no such matrix.
        """

    def weight(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Weight:
        """The matrix, of these tensors.

        Args:
            dtype: of what is multiplied with it.

        Raises:
            StartupError: the tensors contradict each other.
        """


@dataclass(frozen=True, slots=True)
class Plain:
    """Implements `LinearMethod`: numbers as they are."""

    def tensors(self, out: int, size: int) -> Mapping[str, Stored]:
        return {"weight": Stored((out, size))}

    def weight(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Weight:
        return tensors["weight"].to(dtype)


PLAIN: Final = Plain()


def num_groups(size: int, group: int) -> int:
    """Groups of so many columns; 0: a row is one.

    Raises:
        StartupError: they do not divide the columns.
    """
    if group and size % group:
        raise StartupError(f"quantization_config: groups of {group} columns do not divide {size}")
    return size // group if group else 1
