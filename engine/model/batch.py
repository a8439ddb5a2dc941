"""The `Batch`: one step as tensors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quire.engine.arrays import Int32Array
from quire.engine.model.features.context_rows import StateRows
from quire.engine.model.features.logprobs import LogprobRows
from quire.engine.model.features.pooling import PooledTokens
from quire.engine.model.features.prompt_logprobs import ScoredTokens
from quire.engine.model.features.slot_feature import LogitsProcessor
from quire.kernels.attention import PagedBatch
from quire.kernels.sampling import SamplingRows


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows are sequences, context before generation, in the plan's order.

    Attributes:
        slots: int32 [num_rows], on the host.
        num_tokens: int32 [num_rows], on the host: how many tokens each row computes.
        sampling_slots: int32 [num_sampling], on the host: slots of the rows that sample.
        sampling_places: the same on the device, int64.
        input_ids: int64 [sum of num_tokens], on the device.
        paged: where the tokens are in the KV cache, of each cache group; these differ in their blocks alone.
        last_tokens: int64 [num_sampling], on the device: which token's hidden state each sampling row uses.
        adapters: int32 [sum of num_tokens], on the device: where each token's adapter lies, or `NO_PLACE`; None: no
            token has one.
        sampling: how the sampling rows choose.
        processors: what changes their logits before, in this order, each with its own kind of rows.
        logprobs: which of them want log-probabilities; None: none.
        states: hidden states that are wanted beside those of the sampling rows; None: no others.
        scored: tokens of prompts that want log-probabilities; None: none.
        pooled: tokens of prompts of which vectors are wanted; None: none.
    """

    slots: Int32Array
    num_tokens: Int32Array
    sampling_slots: Int32Array
    sampling_places: Tensor
    input_ids: Tensor
    paged: tuple[PagedBatch, ...]
    last_tokens: Tensor
    sampling: SamplingRows
    processors: tuple[tuple[LogitsProcessor[Any], Any], ...] = ()
    adapters: Tensor | None = None
    logprobs: LogprobRows | None = None
    states: StateRows | None = None
    scored: ScoredTokens | None = None
    pooled: PooledTokens | None = None

    @property
    def positions(self) -> Tensor:
        """Of the new tokens, int64, on the device."""
        return self.paged[0].positions


def context_rows(num_tokens: int, longest: int, block_size: int, device: torch.device) -> PagedBatch:
    """So many new tokens, in rows of up to `longest`, in the first blocks of the cache."""
    lengths = np.full(-(-num_tokens // longest), longest, np.int32)
    lengths[-1] = num_tokens - longest * (len(lengths) - 1)
    num_blocks = -(-lengths // block_size)
    starts = np.concatenate(([0], np.cumsum(num_blocks))).astype(np.int32)
    blocks, positions = np.arange(starts[-1], dtype=np.int32), np.arange(num_tokens) % longest
    return PagedBatch(
        qo_indptr=np.concatenate(([0], np.cumsum(lengths))).astype(np.int32),
        kv_indptr=starts,
        kv_indices=blocks,
        block_ids=torch.from_numpy(blocks).to(device),
        kv_lens=lengths,
        positions=torch.from_numpy(positions).to(device),
        slot_mapping=torch.from_numpy(np.repeat(starts[:-1], lengths) * np.int64(block_size) + positions).to(device),
    )
