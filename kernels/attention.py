"""Attention over a paged KV cache, for batches that mix chunks of context with single generated tokens.

A step is a list of rows; a row is a sequence that computes one or more new tokens, its *queries*. The keys
and values of the queries are in the cache before `run`. Query at position p sees positions up to p, and with
a sliding window of w only the last w of these, itself included. The layout of the cache and the compressed
row format are FlashInfer's (Ye et al., 2025).
"""

import math
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
        scale: what products of queries and keys are multiplied by to make scores, above 0; None: 1 / sqrt(head_dim).
        has_sinks: whether each query head has a logit that counts in its softmax, but has no value (gpt-oss, 2025).
        value_dim: latent attention (DeepSeek-V2, 2024, in its absorbed form): one key head, of which the first
            `value_dim` numbers are the value, and no values in the cache; None: keys and values.
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
    scale: float | None = None
    has_sinks: bool = False
    value_dim: int | None = None

    def __post_init__(self) -> None:
        if self.value_dim is not None and (self.num_kv_heads != 1 or not 0 < self.value_dim <= self.head_dim):
            raise ValueError(
                "attention: value_dim needs one key head, and is 1 to head_dim, "
                f"got {self.value_dim} with {self.num_kv_heads} heads of {self.head_dim}"
            )

    @property
    def stored(self) -> torch.dtype:
        """Of the cache."""
        return self.dtype if self.kv_dtype is None else self.kv_dtype

    @property
    def out_dim(self) -> int:
        """Size of a head of the result."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def divisor(self) -> float:
        """What products of queries and keys are divided by. In float32 it is exact where `scale` is left out."""
        return math.sqrt(self.head_dim) if self.scale is None else 1 / self.scale

    def check_sinks(self, sinks: Tensor | None) -> None:
        """
        Raises:
            ValueError: these are not the sinks that the spec asks for.
        """
        found = None if sinks is None else (sinks.dtype, *sinks.shape)
        wanted = (torch.float32, self.num_qo_heads) if self.has_sinks else None
        if found != wanted:
            raise ValueError(f"attention: sinks must be {wanted}, got {found}")


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
    """Built from an `AttentionSpec`, once for all layers of a spec that read the same blocks."""

    def sibling(self) -> "AttentionBackend":
        """Another of the same spec with plans of its own, for layers that read other blocks.

        Runs of both follow each other, so they may share what they work in.
        """

    def plan(self, batch: PagedBatch) -> None:
        """Prepare a step; every `run` until the next `plan` is for this batch."""

    def append(self, layer_kv: Tensor, k: Tensor, v: Tensor | None) -> None:
        """Write keys and values of the new tokens into a layer's cache.

        Args:
            layer_kv: as in `run`.
            k, v: [num_tokens, num_kv_heads, head_dim]; may be views into a merged projection. Without values where
                attention is latent.
        """

    def rotate_append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        """`quire.kernels.rope` of q and k, then `append`, in one pass where a backend has one; with the same bits.

        Args:
            q: [num_tokens, num_qo_heads, head_dim], rotated in place.
            k: may be overwritten.
            cos_sin: [max_positions, head_dim] float32.
        """

    def run(self, layer_kv: Tensor, q: Tensor, *, sinks: Tensor | None = None) -> Tensor:
        """Attention of one layer.

        Args:
            layer_kv: [num_blocks, 2, block_size, num_kv_heads, head_dim], keys before values; of latent attention
                [num_blocks, 1, block_size, 1, head_dim]. A backend may arrange what is inside a block otherwise; only
                its own `append` and `run` know.
            q: [num_tokens, num_qo_heads, head_dim].
            sinks: float32 [num_qo_heads], of a spec that has them.

        Returns:
            [num_tokens, num_qo_heads, out_dim].
        """
