"""The arrays of one step go to the device, and come back, in one copy that the host does not wait for."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Steps in flight, and the one being staged.
_RING: Final = 3
_ALIGNMENT: Final = 16


class Staging:
    """On a GPU, packs arrays into pinned memory of which the last `_RING` uploads keep their own.

    Whoever uploads must have seen the result of the upload `_RING` before: then its copy is over.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ring = [torch.empty(0, dtype=torch.uint8)] * _RING
        self._turn = 0

    def upload(self, groups: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, Tensor]]:
        """The arrays of each group as tensors on the device, under the same names."""
        if self._device.type == "cpu":
            return [{name: torch.from_numpy(array) for name, array in group.items()} for group in groups]
        arrays = [array for group in groups for array in group.values()]
        ends = np.cumsum([-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]).tolist()
        offsets = [0, *ends[:-1]]
        pinned = self._next(ends[-1])
        host = pinned.numpy()
        for offset, array in zip(offsets, arrays, strict=True):
            host[offset : offset + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).ravel()
        there = pinned[: ends[-1]].to(self._device, non_blocking=True)
        parts = iter(
            there[offset : offset + array.nbytes].view(torch.from_numpy(array[:0]).dtype)
            for offset, array in zip(offsets, arrays, strict=True)
        )
        return [{name: next(parts) for name in group} for group in groups]

    def _next(self, size: int) -> Tensor:
        self._turn = (self._turn + 1) % _RING
        if len(self._ring[self._turn]) < size:
            self._ring[self._turn] = torch.empty(2 * size, dtype=torch.uint8, pin_memory=True)
        return self._ring[self._turn]


def download(*tensors: Tensor) -> list[Tensor]:
    """The tensors, of four bytes a number, on the host; from a GPU, what they hold is there once the step is over."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    there = [tensor.view(torch.int32).flatten() for tensor in tensors]
    whole = there[0] if len(there) == 1 else torch.cat(there)
    host = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=True).copy_(whole, non_blocking=True)
    return unpacked(host, tensors)


def unpacked(host: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Parts of a flat int32 tensor, with the types and shapes of tensors."""
    parts = torch.split(host, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.dtype).view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
