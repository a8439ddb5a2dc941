"""Reference in PyTorch, for any device.

Rows with one query are computed together, padded to a common number of blocks. Rows of similar length share a group: a
group is at most twice as wide as any of its rows needs. Longer rows are computed alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.kv_append import kv_append
from quire.kernels.rope import rope


@dataclass(frozen=True, slots=True, eq=False)
class _Singles:
    """Rows of one query each, padded to `width` blocks.

    Which tokens they are [rows], their blocks [rows * width], the positions they see [rows, width * block_size],
    where the last block of each is among the blocks [rows], and its positions past the end [rows, block_size].
    """

    tokens: Tensor
    blocks: Tensor
    visible: Tensor
    last: Tensor
    stale: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """A row of several queries: tokens start to stop, the first kv_len positions of its blocks.

    The mask [queries, kv_len] is None where plain causality over equal lengths says the same.
    """

    start: int
    stop: int
    blocks: Tensor
    kv_len: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Of each row: its first token, number of queries, first block needed as an index into kv_indices, number
    of blocks from there, position where that first block begins, and end of its positions."""

    token: NDArray[np.int64]
    num_queries: NDArray[np.int64]
    first_index: NDArray[np.int64]
    num_blocks: NDArray[np.int64]
    origin: NDArray[np.int64]
    end: NDArray[np.int64]


class TorchAttention:
    """Implements `AttentionBackend`."""

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        self._singles: tuple[_Singles, ...] = ()
        self._chunks: tuple[_Chunk, ...] = ()
        self._batch: PagedBatch | None = None

    def plan(self, batch: PagedBatch) -> None:
        self._batch = batch
        rows = self._rows(batch)
        self._singles = tuple(self._plan_singles(rows, batch.kv_indices))
        self._chunks = tuple(self._plan_chunks(rows, batch.kv_indices))

    def append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        if self._batch is None:
            raise RuntimeError("append before plan")
        rope(q, k, cos_sin, self._batch.positions)
        kv_append(layer_kv, k, v, self._batch.slot_mapping)

    def run(self, layer_kv: Tensor, q: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for singles in self._singles:
            out[singles.tokens] = self._run_singles(singles, layer_kv, q[singles.tokens])
        for chunk in self._chunks:
            out[chunk.start : chunk.stop] = self._run_chunk(chunk, layer_kv, q[chunk.start : chunk.stop])
        return out

    def _rows(self, batch: PagedBatch) -> _Rows:
        """Blocks that have left the sliding window of a row's first query are not read."""
        size, window = self._spec.block_size, self._spec.sliding_window
        num_queries = np.diff(batch.qo_indptr).astype(np.int64)
        end = batch.kv_lens.astype(np.int64)
        skipped = np.zeros_like(end) if window is None else np.maximum(end - num_queries + 1 - window, 0) // size
        return _Rows(
            token=batch.qo_indptr[:-1].astype(np.int64),
            num_queries=num_queries,
            first_index=batch.kv_indptr[:-1] + skipped,
            num_blocks=-(-end // size) - skipped,
            origin=skipped * size,
            end=end,
        )

    def _plan_singles(self, rows: _Rows, kv_indices: NDArray[np.int32]) -> Iterator[_Singles]:
        single = np.flatnonzero(rows.num_queries == 1)
        width_class = np.ceil(np.log2(rows.num_blocks[single])).astype(np.int64)
        for each in np.unique(width_class):
            group = single[width_class == each]
            num_blocks, end = rows.num_blocks[group], rows.end[group]
            width = int(num_blocks.max())
            columns = np.arange(width)
            # A shorter row is padded with its own first block, which is full, at positions past its end.
            index = rows.first_index[group, None] + np.where(columns < num_blocks[:, None], columns, 0)
            place = torch.arange(width * self._spec.block_size, device=self._spec.device)
            position = self._to_device(rows.origin[group, None]) + place
            in_last = (end - 1) % self._spec.block_size
            yield _Singles(
                tokens=self._to_device(rows.token[group]),
                blocks=self._to_device(kv_indices[index].astype(np.int64).ravel()),
                visible=self._visible(self._to_device(end[:, None] - 1), position),
                last=self._to_device(np.arange(len(group)) * width + num_blocks - 1),
                stale=self._to_device(np.arange(self._spec.block_size) > in_last[:, None]),
            )

    def _plan_chunks(self, rows: _Rows, kv_indices: NDArray[np.int32]) -> Iterator[_Chunk]:
        for row in np.flatnonzero(rows.num_queries > 1):
            start, num_queries = int(rows.token[row]), int(rows.num_queries[row])
            first, end, origin = int(rows.first_index[row]), int(rows.end[row]), int(rows.origin[row])
            window = self._spec.sliding_window
            plain = num_queries == end and (window is None or end <= window)
            position = torch.arange(origin, end, device=self._spec.device)
            yield _Chunk(
                start=start,
                stop=start + num_queries,
                blocks=self._to_device(kv_indices[first : first + rows.num_blocks[row]].astype(np.int64)),
                kv_len=end - origin,
                mask=None if plain else self._visible(position[-num_queries:, None], position),
            )

    def _visible(self, query: Tensor, position: Tensor) -> Tensor:
        window = self._spec.sliding_window
        visible = position <= query
        return visible if window is None else visible & (position > query - window)

    def _run_singles(self, singles: _Singles, layer_kv: Tensor, q: Tensor) -> Tensor:
        """The query heads of a group stand where queries would: they share keys, and nothing is repeated."""
        num_rows, num_kv_heads, head_dim = len(q), self._spec.num_kv_heads, self._spec.head_dim
        k, v = _gather(layer_kv, singles.blocks, q.dtype)
        for side in (k, v):
            # What a mask hides is multiplied by zero, and zero times a stranger's stale NaN is NaN.
            side[singles.last] = side[singles.last].masked_fill(singles.stale[:, :, None, None], 0)
        out = self._attend(
            q.view(num_rows, num_kv_heads, -1, head_dim),
            k.view(num_rows, -1, num_kv_heads, head_dim).transpose(1, 2),
            v.view(num_rows, -1, num_kv_heads, head_dim).transpose(1, 2),
            singles.visible[:, None, None, :],
        )
        return out.reshape(num_rows, -1, head_dim)

    def _run_chunk(self, chunk: _Chunk, layer_kv: Tensor, q: Tensor) -> Tensor:
        """Heads that share keys stand in the first dimension, over which the keys are expanded, not copied.

        Not in the second dimension, that of heads. Keys without a stride there make PyTorch's memory-efficient kernel
        on GPUs read a wrong row of the mask. It happens to a query that is alone in its tile of 64 (compare
        pytorch/pytorch issue 191937).
        """
        num_kv_heads, head_dim = self._spec.num_kv_heads, self._spec.head_dim
        num_groups = self._spec.num_qo_heads // num_kv_heads
        k, v = (side.flatten(0, 1)[: chunk.kv_len] for side in _gather(layer_kv, chunk.blocks, q.dtype))
        out = self._attend(
            q.view(len(q), num_kv_heads, num_groups, head_dim).permute(2, 1, 0, 3),
            k.transpose(0, 1).expand(num_groups, -1, -1, -1),
            v.transpose(0, 1).expand(num_groups, -1, -1, -1),
            chunk.mask,
        )
        return out.permute(2, 1, 0, 3).reshape(len(q), -1, head_dim)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of q, k, v, [..., tokens, head_dim] each; causal without a mask."""
        cap = self._spec.logits_soft_cap
        if cap is None:
            return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        if mask is None:
            mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        scores = q.float() @ k.float().transpose(-1, -2) / self._spec.head_dim**0.5
        scores = (cap * torch.tanh(scores / cap)).masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1) @ v.float()).to(q.dtype)

    def _to_device(self, array: NDArray[np.int64] | NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(array).to(self._spec.device)


def _gather(layer_kv: Tensor, blocks: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of some blocks, [len(blocks), block_size, num_kv_heads, head_dim] each, in the queries' dtype.

    A block's keys and values are two neighbours of one flat list: selecting there copies whole runs of memory.
    """
    halves = layer_kv.flatten(0, 1)
    return halves.index_select(0, 2 * blocks).to(dtype), halves.index_select(0, 2 * blocks + 1).to(dtype)
