"""In Triton: one program per part of a row."""

from typing import Final

import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.penalties import GENERATED, PenaltyRows

_PART: Final = 2048


@triton.jit
def _penalties_kernel(  # type: ignore[no-untyped-def]
    logits_ptr, rows_ptr, slots_ptr, counts_ptr, presence_ptr, frequency_ptr, repetition_ptr, stride, size,
    per_generated: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    i, column = tl.program_id(0), tl.program_id(1) * block + tl.arange(0, block)
    count_ptrs = counts_ptr + tl.load(slots_ptr + i) * size + column
    count = tl.load(count_ptrs, mask=column < size, other=0)
    logit_ptrs = logits_ptr + tl.load(rows_ptr + i) * stride + column
    x = tl.load(logit_ptrs, mask=count > 0, other=0.0).to(tl.float64)
    generated = (count // per_generated).to(tl.float64)
    presence, frequency = tl.load(presence_ptr + i).to(tl.float64), tl.load(frequency_ptr + i).to(tl.float64)
    repetition = tl.load(repetition_ptr + i).to(tl.float64)
    repeated = tl.where(x > 0, x / repetition, x * repetition)
    penalized = repeated - (tl.where(generated > 0, presence, 0.0) + frequency * generated)
    tl.store(logit_ptrs, penalized.to(tl.float32), mask=count > 0)


def penalize(logits: Tensor, rows: PenaltyRows) -> None:
    """As the reference; logits are contiguous in their last dimension."""
    size = logits.shape[1]
    _penalties_kernel[(rows.rows.shape[0], triton.cdiv(size, _PART))](
        logits, rows.rows, rows.slots, rows.counts, rows.presence, rows.frequency, rows.repetition, logits.stride(0),
        size, GENERATED, _PART,
    )  # fmt: skip
