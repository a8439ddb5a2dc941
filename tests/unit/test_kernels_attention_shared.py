"""Rows that share blocks are computed together in C++; nobody's result may show it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.native.attention import NativeAttention
from quire.kernels.native.compiler import compiled_library
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.library import NativeLibrary

NUM_BLOCKS = 1000
CPU = torch.device("cpu")
HEADS = (6, 2, 64)  # query heads, key heads, size

pytestmark = pytest.mark.skipif(not supported_levels(), reason="needs an x86-64 processor with AVX2")


@dataclass(frozen=True)
class Row:
    """`num_queries` tokens at the end of `kv_len`, the first `num_shared` blocks those of an earlier row."""

    num_queries: int
    kv_len: int
    parent: int = 0
    num_shared: int = 0


@pytest.fixture(scope="module", params=supported_levels())
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    return NativeLibrary(compiled_library(request.param), num_threads=2)


def tables_of(rows: Sequence[Row], block_size: int) -> list[list[int]]:
    free = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(0)).tolist()
    tables: list[list[int]] = []
    for row in rows:
        # A row writes its last block itself, so no one shares that.
        shared = min(row.num_shared, (row.kv_len - row.num_queries) // block_size)
        table = tables[row.parent % len(tables)][:shared] if tables else []
        tables.append(table + [free.pop() for _ in range(-(-row.kv_len // block_size) - len(table))])
    return tables


def batch_of(rows: Sequence[Row], tables: Sequence[Sequence[int]]) -> PagedBatch:
    blocks = np.array([block for table in tables for block in table], np.int32)
    return PagedBatch(
        qo_indptr=np.cumsum([0, *(row.num_queries for row in rows)], dtype=np.int32),
        kv_indptr=np.cumsum([0, *map(len, tables)], dtype=np.int32),
        kv_indices=blocks,
        block_ids=torch.from_numpy(blocks),
        kv_lens=np.array([row.kv_len for row in rows], np.int32),
        positions=torch.cat([torch.arange(row.kv_len - row.num_queries, row.kv_len) for row in rows]),
        slot_mapping=torch.zeros(0, dtype=torch.int64),
    )


def check(library: NativeLibrary, rows: Sequence[Row], block_size: int, dtype: torch.dtype, window: int | None) -> None:
    num_qo, num_kv, head_dim = HEADS
    backend = NativeAttention(AttentionSpec(num_qo, num_kv, head_dim, block_size, dtype, CPU, window), library)
    generator = torch.Generator().manual_seed(1)
    layer_kv = torch.randn(NUM_BLOCKS, 2, block_size, num_kv, head_dim, generator=generator).to(dtype)
    q = torch.randn(sum(row.num_queries for row in rows), num_qo, head_dim, generator=generator).to(dtype)
    tables = tables_of(rows, block_size)

    def run(some: Sequence[Row], tables: Sequence[Sequence[int]], q: Tensor) -> Tensor:
        backend.plan(batch_of(some, tables))
        return backend.run(layer_kv, q)

    together = run(rows, tables, q)
    assert together.isfinite().all()
    start = 0
    for row, table in zip(rows, tables, strict=True):
        stop = start + row.num_queries
        assert torch.equal(run([row], [table], q[start:stop]), together[start:stop])
        start = stop


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("window", [None, 300])
def test_rows_with_a_common_prefix(library: NativeLibrary, dtype: torch.dtype, window: int | None) -> None:
    # 20 rows make two tiles; some share one split, some two, some less than one; two compute chunks.
    rows = [Row(1, 700)]
    rows += [Row(1, 600 + i, 0, 16 * (i % 4)) for i in range(20)]
    rows += [Row(5, 650, 0, 32), Row(40, 560, 3, 20), Row(1, 256, 0, 15), Row(1, 10)]
    check(library, rows, 16, dtype, window)


def test_a_common_prefix_is_gone_through_once_for_a_tile_of_rows(library: NativeLibrary) -> None:
    num_qo, num_kv, head_dim = HEADS
    backend = NativeAttention(AttentionSpec(num_qo, num_kv, head_dim, 16, torch.float32, CPU), library)
    # Two splits in common, a third that is each row's own; a tile holds 16 rows of 3 heads to a key head.
    rows = [Row(1, 600, 0, 32) for _ in range(16)]
    backend.plan(batch_of(rows, tables_of(rows, 16)))
    assert backend.num_passes == num_kv * (2 + len(rows))
    alone = [Row(1, 600) for _ in rows]
    backend.plan(batch_of(alone, tables_of(alone, 16)))
    assert backend.num_passes == num_kv * 3 * len(rows)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            Row,
            num_queries=st.just(1) | st.integers(1, 30),
            kv_len=st.integers(30, 800),
            parent=st.integers(0, 11),
            num_shared=st.integers(0, 50),
        ),
        min_size=2,
        max_size=12,
    ),
    block_size=st.sampled_from([16, 32, 48]),
)
def test_any_tree_of_prefixes(library: NativeLibrary, rows: list[Row], block_size: int) -> None:
    # Enough rows that splits are not computed apart anyway.
    check(library, [*rows, *[Row(1, 40)] * 8], block_size, torch.float32, None)
