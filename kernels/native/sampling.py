"""In C++; the same rule as the reference, from the same uniform numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels.native.library import NativeLibrary
from quire.kernels.sampling import SamplingRows


@dataclass(frozen=True, slots=True, eq=False)
class NativeSample:
    """`quire.kernels.sampling.sample`; logits are contiguous."""

    library: NativeLibrary

    def __call__(self, logits: Tensor, rows: SamplingRows) -> Tensor:
        num_rows, vocab_size = logits.shape
        tokens = torch.empty(num_rows, dtype=torch.int64)
        self.library.sample(
            self.library.pool,
            logits.data_ptr(),
            num_rows,
            vocab_size,
            rows.drawn.shape[0],
            rows.drawn.data_ptr(),
            rows.temperature.data_ptr(),
            rows.seed.data_ptr(),
            rows.position.data_ptr(),
            rows.filtered.shape[0],
            rows.filtered.data_ptr(),
            rows.top_k.data_ptr(),
            rows.top_p.data_ptr(),
            rows.min_p.data_ptr(),
            tokens.data_ptr(),
        )
        return tokens
