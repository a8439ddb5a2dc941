"""In C++."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.native.library import NativeLibrary


@dataclass(frozen=True, slots=True, eq=False)
class NativeTakeRows:
    """`quire.kernels.take_rows.take_rows`; both arguments are contiguous."""

    library: NativeLibrary

    def __call__(self, matrix: Tensor, rows: Tensor) -> Tensor:
        num_rows, size = rows.shape[0], matrix.shape[1]
        out = torch.empty((num_rows, size), dtype=matrix.dtype)
        row_bytes = size * matrix.itemsize
        self.library.take_rows(
            self.library.pool, matrix.data_ptr(), rows.data_ptr(), out.data_ptr(), num_rows, row_bytes
        )
        return out
