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
from quire.kernels.attention_window import within_window
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
    """Of each row: its first token, number of queries, first block as an index into kv_indices, number of blocks from
    there, and end of its positions."""

    token: NDArray[np.int64]
    num_queries: NDArray[np.int64]
    first_index: NDArray[np.int64]
    num_blocks: NDArray[np.int64]
    end: NDArray[np.int64]


class TorchAttention:
    """Implements `AttentionBackend`."""

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        self._singles: tuple[_Singles, ...] = ()
        self._chunks: tuple[_Chunk, ...] = ()
        self._batch: PagedBatch | None = None

    def sibling(self) -> "TorchAttention":
        return TorchAttention(self._spec)

    def plan(self, batch: PagedBatch) -> None:
        self._batch = batch
        seen = within_window(batch, self._spec.sliding_window, self._spec.block_size)
        rows = _rows(seen)
        self._singles = tuple(self._plan_singles(rows, seen.kv_indices))
        self._chunks = tuple(self._plan_chunks(rows, seen.kv_indices))

    def append(self, layer_kv: Tensor, k: Tensor, v: Tensor | None) -> None:
        kv_append(layer_kv, k, v, self._planned().slot_mapping)

    def rotate_append(self, layer_kv: Tensor, q: Tensor, k: Tensor, v: Tensor, cos_sin: Tensor) -> None:
        rope(q, k, cos_sin, self._planned().positions)
        self.append(layer_kv, k, v)

    def run(self, layer_kv: Tensor, q: Tensor, *, sinks: Tensor | None = None) -> Tensor:
        self._spec.check_sinks(sinks)
        if sinks is not None:
            sinks = sinks.view(self._spec.num_kv_heads, -1)
        out = q.new_empty(*q.shape[:-1], self._spec.out_dim)
        for singles in self._singles:
            out[singles.tokens] = self._run_singles(singles, layer_kv, q[singles.tokens], sinks)
        for chunk in self._chunks:
            tokens = slice(chunk.start, chunk.stop)
            out[tokens] = self._run_chunk(chunk, layer_kv, q[tokens], sinks)
        return out

    def _planned(self) -> PagedBatch:
        if self._batch is None:
            raise RuntimeError("append before plan")
        return self._batch

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
            position = torch.arange(width * self._spec.block_size, device=self._spec.device)
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
            first, end = int(rows.first_index[row]), int(rows.end[row])
            window = self._spec.sliding_window
            plain = num_queries == end and (window is None or end <= window)
            position = torch.arange(end, device=self._spec.device)
            yield _Chunk(
                start=start,
                stop=start + num_queries,
                blocks=self._to_device(kv_indices[first : first + rows.num_blocks[row]].astype(np.int64)),
                kv_len=end,
                mask=None if plain else self._visible(position[-num_queries:, None], position),
            )

    def _visible(self, query: Tensor, position: Tensor) -> Tensor:
        window = self._spec.sliding_window
        visible = position <= query
        return visible if window is None else visible & (position > query - window)

    def _run_singles(self, singles: _Singles, layer_kv: Tensor, q: Tensor, sinks: Tensor | None) -> Tensor:
        """The query heads of a group stand where queries would: they share keys, and nothing is repeated."""
        num_rows, num_kv_heads, head_dim = len(q), self._spec.num_kv_heads, self._spec.head_dim
        k, v = self._gather(layer_kv, singles.blocks, q.dtype)
        for side in (k, v):
            # What a mask hides is multiplied by zero, and zero times a stranger's stale NaN is NaN.
            side[singles.last] = side[singles.last].masked_fill(singles.stale[:, :, None, None], 0)
        out = self._attend(
            q.view(num_rows, num_kv_heads, -1, head_dim),
            k.view(num_rows, -1, num_kv_heads, head_dim).transpose(1, 2),
            v.view(num_rows, -1, num_kv_heads, self._spec.out_dim).transpose(1, 2),
            singles.visible[:, None, None, :],
            None if sinks is None else sinks[..., None],
        )
        return out.flatten(1, 2)

    def _run_chunk(self, chunk: _Chunk, layer_kv: Tensor, q: Tensor, sinks: Tensor | None) -> Tensor:
        """Heads that share keys stand in the first dimension, over which the keys are expanded, not copied.

        Not in the second dimension, that of heads. Keys without a stride there make PyTorch's memory-efficient kernel
        on GPUs read a wrong row of the mask. It happens to a query that is alone in its tile of 64 (compare
        pytorch/pytorch issue 191937).
        """
        num_kv_heads, head_dim = self._spec.num_kv_heads, self._spec.head_dim
        num_groups = self._spec.num_qo_heads // num_kv_heads
        k, v = (side.flatten(0, 1)[: chunk.kv_len] for side in self._gather(layer_kv, chunk.blocks, q.dtype))
        out = self._attend(
            q.view(len(q), num_kv_heads, num_groups, head_dim).permute(2, 1, 0, 3),
            k.transpose(0, 1).expand(num_groups, -1, -1, -1),
            v.transpose(0, 1).expand(num_groups, -1, -1, -1),
            chunk.mask,
            None if sinks is None else sinks.T[..., None, None],
        )
        return out.permute(2, 1, 0, 3).flatten(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sinks: Tensor | None) -> Tensor:
        """Attention of q, k, v, [..., tokens, size] each, causal without a mask; sinks stand as a last key would."""
        cap = self._spec.logits_soft_cap
        if cap is None and sinks is None:
            return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=self._spec.scale)
        if mask is None:
            mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        scores = q.float() @ k.float().transpose(-1, -2) / self._spec.divisor
        if cap is not None:
            scores = cap * torch.tanh(scores / cap)
        scores = scores.masked_fill(~mask, -torch.inf)
        if sinks is not None:
            scores = torch.cat((scores, sinks.expand(*scores.shape[:-1], 1)), dim=-1)
        return (scores.softmax(-1)[..., : k.shape[-2]] @ v.float()).to(q.dtype)

    def _gather(self, layer_kv: Tensor, blocks: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of some blocks, [len(blocks), block_size, num_kv_heads, size] each, in the queries' dtype.

        A block's keys and values are two neighbours of one flat list: selecting there copies whole runs of memory.
        """
        halves = layer_kv.flatten(0, 1)
        if self._spec.value_dim is not None:
            keys = halves.index_select(0, blocks).to(dtype)
            return keys, keys[..., : self._spec.value_dim]
        return halves.index_select(0, 2 * blocks).to(dtype), halves.index_select(0, 2 * blocks + 1).to(dtype)

    def _to_device(self, array: NDArray[np.int64] | NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(array).to(self._spec.device)


def _rows(batch: PagedBatch) -> _Rows:
    return _Rows(
        token=batch.qo_indptr[:-1].astype(np.int64),
        num_queries=np.diff(batch.qo_indptr).astype(np.int64),
        first_index=batch.kv_indptr[:-1].astype(np.int64),
        num_blocks=np.diff(batch.kv_indptr).astype(np.int64),
        end=batch.kv_lens.astype(np.int64),
    )
