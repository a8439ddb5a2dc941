"""Context over an fp8 cache: a layer's blocks are widened before it, as FlashInfer's kernels for Hopper take fp8 keys
only with fp8 queries. The numbers stay what they are; for many queries that costs little beside the attention itself.
"""

from typing import Any, Final

import numpy as np
import torch
import triton
from torch import Tensor
from triton import language as tl

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.cuda.kv_access import halves, readable
from quire.kernels.cuda.overlap import can_overlap, follow

# Pairs of numbers, of one program.
_CHUNK: Final = 2048
# Queries that see a token of the cache, on average, from which on it is worth widening.
_LEAST_QUERIES: Final = 64
# Of a layer's blocks when they are wide.
_MOST_BYTES: Final = 512 << 20


@triton.jit
def _attention_widened_kernel(  # type: ignore[no-untyped-def]
    cache_ptr, blocks_ptr, wide_ptr, size, overlaps: tl.constexpr, chunk: tl.constexpr
):  # fmt: skip
    """Of blocks of `size` pairs."""
    place, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * chunk
    pair, number = start + tl.arange(0, chunk), 2 * start + tl.arange(0, 2 * chunk)
    follow(overlaps)
    block = tl.load(blocks_ptr + place).to(tl.int64)
    first, second = halves(tl.load(cache_ptr + block * size + pair, mask=pair < size, other=0))
    wide = tl.interleave(first, second).to(wide_ptr.dtype.element_ty)
    tl.store(wide_ptr + place * 2 * size + number, wide, mask=number < 2 * size)


def widened(layer_kv: Tensor, blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """[len(blocks), ...] of layer_kv, [num_blocks, ...]."""
    wide = torch.empty(len(blocks), *layer_kv.shape[1:], dtype=dtype, device=blocks.device)
    size = layer_kv[0].numel() // 2
    if len(blocks):
        overlaps = can_overlap(blocks)
        _attention_widened_kernel[(len(blocks), triton.cdiv(size, _CHUNK))](
            readable(layer_kv), blocks, wide, size, overlaps, min(_CHUNK, triton.next_power_of_2(size)),
            launch_pdl=overlaps,
        )  # fmt: skip
    return wide


def is_worth_widening(batch: PagedBatch, num_context: int, spec: AttentionSpec) -> bool:
    """Whether the first `num_context` rows of a step are."""
    counts, lengths = np.diff(batch.qo_indptr[: num_context + 1]), batch.kv_lens[:num_context].astype(np.int64)
    wide = 2 * int(lengths.sum()) * spec.num_kv_heads * spec.head_dim * spec.dtype.itemsize
    return wide <= _MOST_BYTES and int((counts * lengths).sum()) >= _LEAST_QUERIES * int(lengths.sum())


class WidenedContext:
    """Planned and run as the wrapper is that it has, over a cache of the queries' type."""

    def __init__(self, spec: AttentionSpec, wrapper: Any) -> None:
        self._dtype, self._wrapper = spec.dtype, wrapper
        self._blocks = torch.empty(0, dtype=torch.int32)

    def plan(
        self, qo_indptr: Tensor, indptr: Tensor, blocks: Tensor, last_page_len: Tensor, *sizes: int, **types: Any
    ) -> None:
        """The wrapper's blocks follow each other."""
        self._blocks = blocks
        order = torch.arange(len(blocks), dtype=torch.int32, device=blocks.device)
        types["kv_data_type"] = self._dtype
        self._wrapper.plan(qo_indptr, indptr, order, last_page_len, *sizes, **types)

    def run(self, q: Tensor, layer_kv: Tensor, out: Tensor, **options: Tensor) -> None:
        """Into `out`."""
        self._wrapper.run(q, widened(layer_kv, self._blocks, self._dtype), out=out, **options)
