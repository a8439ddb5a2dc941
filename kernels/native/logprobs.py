"""In C++."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.native.library import NativeLibrary


@dataclass(frozen=True, slots=True, eq=False)
class NativeLogprobs:
    """`quire.kernels.logprobs.logprobs`; logits are contiguous."""

    library: NativeLibrary

    def __call__(self, logits: Tensor, tokens: Tensor, rows: Tensor, num_top: int) -> tuple[Tensor, Tensor]:
        values = torch.empty(len(rows), 1 + num_top)
        top_ids = torch.empty(len(rows), num_top, dtype=torch.int32)
        self.library.logprobs(
            self.library.pool,
            logits.data_ptr(),
            logits.shape[1],
            tokens.data_ptr(),
            len(rows),
            rows.data_ptr(),
            num_top,
            values.data_ptr(),
            top_ids.data_ptr(),
        )
        return values, top_ids
