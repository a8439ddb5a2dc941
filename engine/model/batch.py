"""The `Batch`: one step as tensors."""

from dataclasses import dataclass

from torch import Tensor

from quire.engine.request import Int32Array
from quire.kernels.attention.base import PagedBatch
from quire.kernels.sampling.base import SamplingRows


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows are sequences, context before generation, in the plan's order.

    Attributes:
        slots: int32 [num_rows], on the host.
        num_tokens: int32 [num_rows], on the host: how many tokens each row computes.
        sampling_slots: int32 [num_sampling], on the host: slots of the rows that sample.
        input_ids: int64 [sum of num_tokens], on the device.
        paged: where the tokens are in the KV cache.
        last_tokens: int64 [num_sampling], on the device: which token's hidden state each sampling row uses.
        sampling: how the sampling rows choose.
    """

    slots: Int32Array
    num_tokens: Int32Array
    sampling_slots: Int32Array
    input_ids: Tensor
    paged: PagedBatch
    last_tokens: Tensor
    sampling: SamplingRows
