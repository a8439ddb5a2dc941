"""Rows in a paged cache, the same rows as dense tensors, and attention over these written out in float64."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from quire.kernels.attention import AttentionSpec, PagedBatch

# (queries, tokens in the cache with them): fresh prompts, chunks in the middle, single tokens, exact blocks, and rows
# of several of the native backend's splits.
MIXED = ((5, 5), (1, 1), (7, 40), (1, 37), (16, 32), (1, 16), (1, 300), (70, 333), (1, 1000), (3, 515))


@dataclass(frozen=True)
class PagedCase:
    """
    Attributes:
        spec: what the case is for.
        rows: queries, keys and values of each row.
        layer_kv: the cache; what no row has written is NaN, but for values behind a row's end in its last block.
    """

    spec: AttentionSpec
    rows: tuple[tuple[Tensor, Tensor, Tensor], ...]
    layer_kv: Tensor
    batch: PagedBatch

    @property
    def q(self) -> Tensor:
        return torch.cat([q for q, _, _ in self.rows])

    @property
    def sinks(self) -> Tensor | None:
        """From far below all scores to far above."""
        return torch.linspace(-200, 200, self.spec.num_qo_heads) ** 3 / 1e4 if self.spec.has_sinks else None

    def expected(self) -> Tensor:
        return torch.cat([dense(*row, self.spec, self.sinks) for row in self.rows])

    def given_away(self) -> "PagedCase":
        """The same rows; in place of the blocks that none of their queries sees they have block 0, which is NaN."""
        batch, window = self.batch, self.spec.sliding_window
        if window is None:
            return self
        kv_indices = batch.kv_indices.copy()
        for row, (q, k, _) in enumerate(self.rows):
            first, seen = batch.kv_indptr[row], len(k) - len(q) + 1 - window
            kv_indices[first : first + max(seen, 0) // self.spec.block_size] = 0
        block_ids = torch.from_numpy(kv_indices).to(self.spec.device)
        return replace(self, batch=replace(batch, kv_indices=kv_indices, block_ids=block_ids))

    def native_kv(self) -> Tensor:
        """The cache as the native backend keeps it, see kernels/csrc/attention.h."""
        blocks, sides, size, heads, dim = self.layer_kv.shape
        pack = 4 // self.layer_kv.itemsize
        keys, values = self.layer_kv[:, 0], self.layer_kv[:, -1]
        keys = keys.view(blocks, size // 16, 16, heads, dim // pack, pack).permute(0, 3, 1, 4, 2, 5)
        if sides == 1:
            return keys.reshape(self.layer_kv.shape)
        values = values.view(blocks, size // pack, pack, heads, dim).permute(0, 3, 1, 4, 2)
        return torch.stack((keys.flatten(1), values.flatten(1)), 1).view(self.layer_kv.shape)


def paged_case(spec: AttentionSpec, lengths: Sequence[tuple[int, int]] = MIXED, seed: int = 0) -> PagedCase:
    """Random rows of so many queries and tokens; block 0 is nobody's."""
    generator = torch.Generator().manual_seed(seed)
    size, shape = spec.block_size, (spec.num_kv_heads, spec.head_dim)
    num_blocks = 8 + sum(-(-kv_len // size) for _, kv_len in lengths)
    sides = 2 if spec.value_dim is None else 1
    layer_kv = torch.full((num_blocks, sides, size, *shape), torch.nan, dtype=spec.dtype)
    free = (torch.randperm(num_blocks - 1, generator=generator) + 1).tolist()
    rows, tables, slots = [], [], []
    for num_queries, kv_len in lengths:
        q = torch.randn(num_queries, spec.num_qo_heads, spec.head_dim, generator=generator).to(spec.dtype)
        k, v = torch.randn(2, kv_len, *shape, generator=generator).to(spec.stored).to(spec.dtype)
        table = torch.tensor([free.pop() for _ in range(-(-kv_len // size))])
        layer_kv[table[-1], 1:] = 0
        where = torch.arange(kv_len)
        if spec.value_dim is not None:
            v = k[..., : spec.value_dim]
        for side, new in enumerate((k, v)[:sides]):
            layer_kv[table[where // size], side, where % size] = new
        rows.append((q, k, v))
        tables.append(table.numpy().astype(np.int32))
        slots.append((table[where // size] * size + where % size)[kv_len - num_queries :])
    blocks = np.concatenate(tables)
    batch = PagedBatch(
        qo_indptr=np.cumsum([0, *(count for count, _ in lengths)], dtype=np.int32),
        kv_indptr=np.cumsum([0, *map(len, tables)], dtype=np.int32),
        kv_indices=blocks,
        block_ids=torch.from_numpy(blocks).to(spec.device),
        kv_lens=np.array([kv_len for _, kv_len in lengths], np.int32),
        positions=torch.cat([torch.arange(kv_len - count, kv_len) for count, kv_len in lengths]).to(spec.device),
        slot_mapping=torch.cat(slots).to(spec.device),
    )
    return PagedCase(spec, tuple(rows), layer_kv.to(spec.stored), batch)


def dense(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, sinks: Tensor | None) -> Tensor:
    """Softmax attention of one row, whose queries are its last tokens."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(groups, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) * (spec.scale or spec.head_dim**-0.5)
    key = torch.arange(len(k))
    query = key[-len(q) :, None]
    hidden = key > query
    if spec.sliding_window is not None:
        hidden |= key <= query - spec.sliding_window
    if spec.logits_soft_cap is not None:
        scores = spec.logits_soft_cap * (scores / spec.logits_soft_cap).tanh()
    scores = scores.masked_fill(hidden, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.double().view(-1, 1, 1).expand(-1, len(q), 1)), dim=-1)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1)[..., : len(k)], v).float()
