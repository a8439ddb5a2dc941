"""Context in Triton, for heads that FlashInfer has no kernels for: a program takes a tile of a row's queries.

Queries of several heads that share a key head stand in one tile, token by token; each sees the positions up to its own.
"""

from typing import Final

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor
from triton import language as tl

from quire.kernels.attention import AttentionSpec
from quire.kernels.cuda.attention_decode import LOG2_E, absorb, absorb_sinks, constants, nothing, whole
from quire.kernels.cuda.kv_access import queries_for, readable
from quire.kernels.cuda.overlap import can_overlap, follow

# Queries and tokens of one step of a program, warps that compute it, and steps in flight.
_QUERIES: Final = 128
_TILE: Final = 64
_WARPS: Final = 8
_STAGES: Final = 2
# Numbers of a task: first token, tokens, tile of queries, first block, tokens in the cache.
_TASK: Final = 5


@triton.jit
def _attention_context_kernel(  # type: ignore[no-untyped-def]
    q_ptr, cache_ptr, out_ptr, tasks_ptr, blocks_ptr, sinks_ptr, q_stride, scale, overlaps: tl.constexpr,
    has_sinks: tl.constexpr, window: tl.constexpr, queries: tl.constexpr, tile: tl.constexpr, cap: tl.constexpr,
    num_kv_heads: tl.constexpr, groups: tl.constexpr, head_dim: tl.constexpr, width: tl.constexpr,
    block_size: tl.constexpr,
):  # fmt: skip
    task, head = tasks_ptr + tl.program_id(0) * 5, tl.program_id(1)
    first, count, kv_len = tl.load(task), tl.load(task + 1), tl.load(task + 4)
    query = tl.load(task + 2) * queries + tl.arange(0, queries)
    lane, column = tl.arange(0, width), tl.arange(0, tile)
    token, qo_head = query // groups, head * groups + query % groups
    here = (token < count)[:, None] & (lane < head_dim)[None, :]
    # What is behind the row's last query does as that one does.
    position = kv_len - count + tl.minimum(token, count - 1)
    follow(overlaps)
    row = (first + token).to(tl.int64)[:, None]
    place = qo_head[:, None] * head_dim + lane[None, :]
    q, divisor = queries_for(tl.load(q_ptr + row * q_stride + place, mask=here, other=0.0), cache_ptr)
    scales = divisor * scale
    highest, weights, totals = nothing(cache_ptr, queries, width)
    blocks = blocks_ptr + tl.load(task + 3)
    begin = tl.maximum(tl.min(position, axis=0) - window + 1, 0) if window > 0 else 0
    for start in range(begin, tl.minimum(kv_len, tl.max(position, axis=0) + 1), tile):
        at = start + column
        visible = at[None, :] <= position[:, None]
        if window > 0:
            visible = visible & (at[None, :] > position[:, None] - window)
        highest, weights, totals = absorb(
            q, cache_ptr, blocks, at, at < kv_len, visible, head, highest, weights, totals,
            scales, cap, num_kv_heads, head_dim, width, block_size,
        )  # fmt: skip
    total = whole(totals)
    if has_sinks:
        weights, total = absorb_sinks(sinks_ptr, qo_head, token < count, highest, weights, total)
    result = (total / weights[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * (num_kv_heads * groups * head_dim) + place, result, mask=here)


def context_tasks(
    qo_indptr: NDArray[np.int32], kv_indptr: NDArray[np.int32], kv_lens: NDArray[np.int32], groups: int
) -> NDArray[np.int32]:
    """int32 [num_tasks, 5], the longest first, so that none is left when the others are done.

    Args:
        qo_indptr, kv_indptr, kv_lens: as in `PagedBatch`.
        groups: queries that share a key head.
    """
    counts = np.diff(qo_indptr)
    num_tiles = -(-counts * groups // _QUERIES)
    row = np.repeat(np.arange(len(counts)), num_tiles)
    tile = np.arange(len(row)) - np.repeat(np.cumsum(num_tiles) - num_tiles, num_tiles)
    tasks = np.stack((qo_indptr[row], counts[row], tile, kv_indptr[row], kv_lens[row]), axis=1).astype(np.int32)
    work = kv_lens[row] - counts[row] + (tile + 1) * _QUERIES // groups
    return tasks[np.argsort(-work, kind="stable")]


class TritonContext:
    """Rows of several tokens; planned and run as FlashInfer's wrappers are."""

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        none = torch.empty(0, dtype=torch.int32)
        self._tasks, self._blocks = none, none

    def plan(
        self, qo_indptr: Tensor, indptr: Tensor, blocks: Tensor, last_page_len: Tensor, num_qo_heads: int,
        num_kv_heads: int, head_dim: int, block_size: int, **types: object,
    ) -> None:  # fmt: skip
        """Stores the arguments of `run`."""
        kv_lens = (np.diff(indptr.numpy()) - 1) * np.int32(block_size) + last_page_len.numpy()
        tasks = context_tasks(qo_indptr.numpy(), indptr.numpy(), kv_lens, num_qo_heads // num_kv_heads)
        self._tasks, self._blocks = torch.from_numpy(tasks).to(blocks.device, non_blocking=True), blocks

    def run(self, q: Tensor, layer_kv: Tensor, out: Tensor, sinks: Tensor | None = None) -> None:
        """Into `out`, [num_tokens, num_qo_heads, head_dim], contiguous; q alike, but its tokens may lie apart."""
        spec, overlaps = self._spec, can_overlap(q)
        _attention_context_kernel[(len(self._tasks), spec.num_kv_heads)](
            q, readable(layer_kv), out, self._tasks, self._blocks, self._tasks if sinks is None else sinks,
            q.stride(0), LOG2_E / spec.divisor, overlaps, sinks is not None, spec.sliding_window or 0, _QUERIES, _TILE,
            **constants(spec), num_warps=_WARPS, num_stages=_STAGES, launch_pdl=overlaps,
        )  # fmt: skip
