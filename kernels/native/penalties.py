"""In C++."""

from dataclasses import dataclass

from torch import Tensor

from quire.kernels.native.library import NativeLibrary
from quire.kernels.penalties import PenaltyRows


@dataclass(frozen=True, slots=True, eq=False)
class NativePenalize:
    """`quire.kernels.penalties.penalize`; logits are contiguous."""

    library: NativeLibrary

    def __call__(self, logits: Tensor, rows: PenaltyRows) -> None:
        self.library.penalize(
            self.library.pool,
            logits.data_ptr(),
            logits.shape[1],
            rows.rows.shape[0],
            rows.rows.data_ptr(),
            rows.slots.data_ptr(),
            rows.counts.data_ptr(),
            rows.presence.data_ptr(),
            rows.frequency.data_ptr(),
            rows.repetition.data_ptr(),
        )
