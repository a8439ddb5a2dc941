"""The `Batch`: one step as tensors."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quire.engine.request import Int32Array
from quire.kernels.attention.base import PagedBatch
from quire.kernels.penalties.base import PenaltyRows
from quire.kernels.sampling.base import SamplingRows


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows are sequences, context before generation, in the plan's order.

    Attributes:
        slots: int32 [num_rows], on the host.
        num_tokens: int32 [num_rows], on the host: how many tokens each row computes.
        sampling_slots: int32 [num_sampling], on the host: slots of the rows that sample.
        sampling_places: the same on the device, int64.
        input_ids: int64 [sum of num_tokens], on the device.
        paged: where the tokens are in the KV cache.
        last_tokens: int64 [num_sampling], on the device: which token's hidden state each sampling row uses.
        sampling: how the sampling rows choose.
        penalties: which of them are penalised before; None: none.
    """

    slots: Int32Array
    num_tokens: Int32Array
    sampling_slots: Int32Array
    sampling_places: Tensor
    input_ids: Tensor
    paged: PagedBatch
    last_tokens: Tensor
    sampling: SamplingRows
    penalties: PenaltyRows | None = None


def one_row(num_tokens: int, block_size: int, device: torch.device) -> PagedBatch:
    """A context of so many tokens in the first blocks of the cache."""
    num_blocks = -(-num_tokens // block_size)
    blocks, places = np.arange(num_blocks, dtype=np.int32), torch.arange(num_tokens, device=device)
    return PagedBatch(
        qo_indptr=np.array([0, num_tokens], np.int32),
        kv_indptr=np.array([0, num_blocks], np.int32),
        kv_indices=blocks,
        block_ids=torch.from_numpy(blocks).to(device),
        kv_lens=np.array([num_tokens], np.int32),
        positions=places,
        slot_mapping=places,
    )
