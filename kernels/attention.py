"""Attention over a paged KV cache, for batches that mix chunks of context with single generated tokens.

A step is a list of rows; a row is a sequence that computes one or more new tokens, its *queries*. The keys
and values of the queries are in the cache before `run`. Query at position p sees positions up to p, and with
a sliding window of w only the last w of these, itself included. The layout of the cache and the compressed
row format are FlashInfer's (Ye et al., 2025).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Constants of an executor's attention.

    Attributes:
        num_qo_heads, num_kv_heads: the first is a multiple of the second.
        head_dim: size of one head.
        block_size: tokens per KV block.
        dtype, device: of queries and cache.
        sliding_window: positions that a query sees, itself included; None: all up to its own.
        kv_dtype: of the cache, where it is another: float8_e4m3fn.
        logits_soft_cap: scores x become cap * tanh(x / cap) before the mask (Gemma 2, 2024), above 0; None: they stay.
    """

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype
    device: torch.device
    sliding_window: int | None = None
    kv_dtype: torch.dtype | None = None
    logits_soft_cap: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PagedBatch:
    """Where the tokens of one step are, and what their rows have in the cache.

        qo_indptr    0        3  4  5         row 0 computes 3 tokens, rows 1 and 2 one each
        kv_indptr    0     2        5  6      row 0 has 2 blocks, row 1 has 3, row 2 has 1
        kv_indices   7  4  9  1  5  8         their block ids, in order of position
        kv_lens      21    40       3         tokens of the row in the cache, the new ones included

    Attributes:
        qo_indptr, kv_indptr: int32 [num_rows + 1], on the host.
        kv_indices: int32 [kv_indptr[-1]], on the host; ceil(kv_lens / block_size) blocks per row.
        block_ids: kv_indices on the device.
        kv_lens: int32 [num_rows], on the host.
        positions: int64 [num_tokens], on the device.
        slot_mapping: int64 [num_tokens], on the device: block * block_size + offset of each new token.
    """

    qo_indptr: NDArray[np.int32]
    kv_indptr: NDArray[np.int32]
    kv_indices: NDArray[np.int32]
    block_ids: Tensor
    kv_lens: NDArray[np.int32]
    positions: Tensor
    slot_mapping: Tensor


class AttentionBackend(Protocol):
    """Built from an `AttentionSpec`, once per distinct sliding window of the model."""

    def plan(self, batch: PagedBatch) -> None:
        """Prepare a step; every `run` until the next `plan` is for this batch."""

    def append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        """Rotate the queries of a layer in place, and write its keys, rotated, and values into the cache.

        Args:
            layer_kv: as in `run`.
            q: [num_tokens, num_qo_heads, head_dim].
            k, v: [num_tokens, num_kv_heads, head_dim]; k may be overwritten. All three may be views into a
                merged projection.
            cos_sin: [max_positions, head_dim] float32, see `quire.kernels.rope`.
        """

    def run(self, layer_kv: Tensor, q: Tensor) -> Tensor:
        """Attention of one layer.

        Args:
            layer_kv: [num_blocks, 2, block_size, num_kv_heads, head_dim], keys before values. A backend may
                arrange what is inside a block otherwise; only its own `append` and `run` know.
            q: [num_tokens, num_qo_heads, head_dim].

        Returns:
            [num_tokens, num_qo_heads, head_dim]; scores are scaled by 1 / sqrt(head_dim).
        """
