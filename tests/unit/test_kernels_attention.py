"""Paged attention against a dense reference that never saw a block."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from quire.kernels.attention.base import AttentionSpec, PagedBatch
from quire.kernels.attention.registry import attention_backend
from quire.kernels.kv_append.torch import kv_append
from quire.kernels.kv_copy.torch import kv_copy

BLOCK_SIZE = 16
NUM_BLOCKS = 64
CPU = torch.device("cpu")
# (queries, tokens in the cache with them): fresh prompts, chunks in the middle, single tokens, exact blocks.
MIXED = ((5, 5), (1, 1), (7, 40), (1, 37), (16, 32), (1, 16), (1, 100), (33, 33), (1, 17))


@dataclass(frozen=True)
class Case:
    """Dense rows and the same rows in a paged cache whose other places are all NaN."""

    rows: tuple[tuple[Tensor, Tensor, Tensor], ...]
    layer_kv: Tensor
    batch: PagedBatch

    @property
    def q(self) -> Tensor:
        return torch.cat([q for q, _, _ in self.rows])


def make_case(lengths: Sequence[tuple[int, int]], num_qo: int, num_kv: int, head_dim: int, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    layer_kv = torch.full((NUM_BLOCKS, 2, BLOCK_SIZE, num_kv, head_dim), torch.nan)
    free = torch.randperm(NUM_BLOCKS, generator=generator).tolist()
    rows, tables, slots, positions = [], [], [], []
    for num_queries, kv_len in lengths:
        q = torch.randn(num_queries, num_qo, head_dim, generator=generator)
        k, v = torch.randn(2, kv_len, num_kv, head_dim, generator=generator)
        table = torch.tensor([free.pop() for _ in range(-(-kv_len // BLOCK_SIZE))])
        where = torch.arange(kv_len)
        mapping = table[where // BLOCK_SIZE] * BLOCK_SIZE + where % BLOCK_SIZE
        kv_append(layer_kv, k, v, mapping)
        rows.append((q, k, v))
        tables.append(table.numpy().astype(np.int32))
        slots.append(mapping[kv_len - num_queries :])
        positions.append(where[kv_len - num_queries :])
    queries, lens = (np.array(column, np.int32) for column in zip(*lengths, strict=True))
    batch = PagedBatch(
        qo_indptr=np.cumsum([0, *queries], dtype=np.int32),
        kv_indptr=np.cumsum([0, *map(len, tables)], dtype=np.int32),
        kv_indices=np.concatenate(tables),
        kv_lens=lens,
        positions=torch.cat(positions),
        slot_mapping=torch.cat(slots),
    )
    return Case(tuple(rows), layer_kv, batch)


def dense(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Softmax attention written out in float64."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(groups, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) / q.shape[-1] ** 0.5
    key = torch.arange(len(k))
    query = (key[-len(q) :])[:, None]
    hidden = (key > query) if window is None else (key > query) | (key <= query - window)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).float()


def run(case: Case, window: int | None) -> Tensor:
    q = case.q
    num_kv, head_dim = case.layer_kv.shape[-2:]
    spec = AttentionSpec(q.shape[1], num_kv, head_dim, BLOCK_SIZE, q.dtype, CPU, window)
    backend = attention_backend("torch", spec)
    backend.plan(case.batch)
    return backend.run(case.layer_kv, q)


def expected(case: Case, window: int | None) -> Tensor:
    return torch.cat([dense(q, k, v, window) for q, k, v in case.rows])


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("groups", [1, 2, 3, 8])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
def test_mixed_batch_equals_dense(head_dim: int, groups: int, window: int | None) -> None:
    case = make_case(MIXED, groups * 2, 2, head_dim)
    torch.testing.assert_close(run(case, window), expected(case, window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [1, 9, 15, 16, 17, 33, 1000])
@pytest.mark.parametrize("num_kv", [1, 3])
def test_windows_equal_dense(num_kv: int, window: int) -> None:
    case = make_case(MIXED, 2 * num_kv, num_kv, 64, seed=window)
    torch.testing.assert_close(run(case, window), expected(case, window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [((1, 1),), ((1, 500), (1, 3), (1, 250), (1, 4)), ((40, 40),), ((2, 200), (3, 3))])
@pytest.mark.parametrize("window", [None, 20])
def test_uniform_batches_equal_dense(lengths: tuple[tuple[int, int], ...], window: int | None) -> None:
    case = make_case(lengths, 4, 2, 64)
    torch.testing.assert_close(run(case, window), expected(case, window), rtol=1e-5, atol=1e-5)


def test_a_row_alone_equals_the_row_in_a_batch() -> None:
    whole = make_case(MIXED, 4, 2, 64)
    together = run(whole, None)
    for row, (q, k, v) in enumerate(whole.rows):
        start, stop = whole.batch.qo_indptr[row : row + 2]
        torch.testing.assert_close(together[start:stop], dense(q, k, v, None), rtol=1e-5, atol=1e-5)


def test_queries_may_be_a_strided_view() -> None:
    case = make_case(MIXED, 4, 2, 64)
    merged = torch.cat((case.q, torch.zeros(len(case.q), 4, 64)), dim=1)
    backend = attention_backend("auto", AttentionSpec(4, 2, 64, BLOCK_SIZE, torch.float32, CPU))
    backend.plan(case.batch)
    out = backend.run(case.layer_kv, merged[:, :4])
    torch.testing.assert_close(out, expected(case, None), rtol=1e-5, atol=1e-5)


def test_unknown_backend_lists_the_known() -> None:
    spec = AttentionSpec(4, 2, 64, BLOCK_SIZE, torch.float32, CPU)
    with pytest.raises(ValueError, match="must be one of auto, torch, got 'flash'"):
        attention_backend("flash", spec)


def test_append_writes_only_its_places() -> None:
    layer_kv = torch.zeros(4, 2, BLOCK_SIZE, 2, 8)
    k, v = torch.randn(2, 3, 2, 8)
    kv_append(layer_kv, k, v, torch.tensor([5, 47, 16]))
    assert torch.equal(layer_kv[0, 0, 5], k[0])
    assert torch.equal(layer_kv[2, 1, 15], v[1])
    assert torch.equal(layer_kv[1, 0, 0], k[2])
    assert layer_kv.count_nonzero() == k.numel() + v.numel()


def test_copy_reads_all_sources_first() -> None:
    kv = torch.arange(5.0).view(1, 5, 1, 1, 1, 1).repeat(2, 1, 2, 4, 1, 1)
    kv_copy(kv, torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert kv[:, :, 0, 0, 0, 0].tolist() == [[0, 0, 1, 3, 4]] * 2
