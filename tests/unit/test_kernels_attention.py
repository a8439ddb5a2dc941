"""Paged attention, reference and C++, against a dense reference that never saw a block."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.kv_append import kv_append
from quire.kernels.kv_copy import kv_copy
from quire.kernels.native.attention import KERNELS, NativeAttention
from quire.kernels.native.compiler import compiled_library
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.library import NativeLibrary
from quire.kernels.registry import attention_backend

BLOCK_SIZE = 16
NUM_BLOCKS = 64
MANY_BLOCKS = 900
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


def make_case(
    lengths: Sequence[tuple[int, int]],
    num_qo: int,
    num_kv: int,
    head_dim: int,
    seed: int = 0,
    num_blocks: int = NUM_BLOCKS,
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    layer_kv = torch.full((num_blocks, 2, BLOCK_SIZE, num_kv, head_dim), torch.nan)
    free = torch.randperm(num_blocks, generator=generator).tolist()
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
        block_ids=torch.from_numpy(np.concatenate(tables)).int(),
        kv_lens=lens,
        positions=torch.cat(positions),
        slot_mapping=torch.cat(slots),
    )
    return Case(tuple(rows), layer_kv, batch)


def dense(q: Tensor, k: Tensor, v: Tensor, window: int | None, cap: float | None = None) -> Tensor:
    """Softmax attention written out in float64."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(groups, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) / q.shape[-1] ** 0.5
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    key = torch.arange(len(k))
    query = (key[-len(q) :])[:, None]
    hidden = (key > query) if window is None else (key > query) | (key <= query - window)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).float()


def run(case: Case, window: int | None, cap: float | None = None) -> Tensor:
    q = case.q
    num_kv, head_dim = case.layer_kv.shape[-2:]
    spec = AttentionSpec(q.shape[1], num_kv, head_dim, BLOCK_SIZE, q.dtype, CPU, window, logits_soft_cap=cap)
    backend = attention_backend("torch", spec)
    backend.plan(case.batch)
    return backend.run(case.layer_kv, q)


def expected(case: Case, window: int | None, cap: float | None = None) -> Tensor:
    return torch.cat([dense(q, k, v, window, cap) for q, k, v in case.rows])


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


@pytest.mark.parametrize("window", [None, 20])
def test_keys_and_values_may_be_kept_in_float8(window: int | None) -> None:
    case = make_case(MIXED, 4, 2, 64)
    eighths = tuple((q, rounded(k), rounded(v)) for q, k, v in case.rows)
    kept = replace(case, rows=eighths, layer_kv=case.layer_kv.to(torch.float8_e4m3fn))
    torch.testing.assert_close(run(kept, window), expected(kept, window), rtol=1e-5, atol=1e-5)


def rounded(x: Tensor) -> Tensor:
    return x.to(torch.float8_e4m3fn).to(x.dtype)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_scores_may_have_a_soft_cap(cap: float, window: int | None) -> None:
    case = make_case(MIXED, 4, 2, 64)
    found = run(case, window, cap)
    torch.testing.assert_close(found, expected(case, window, cap), rtol=1e-5, atol=1e-5)
    assert (found - expected(case, window)).abs().max() > 1e-4


def test_queries_may_be_a_strided_view() -> None:
    case = make_case(MIXED, 4, 2, 64)
    merged = torch.cat((case.q, torch.zeros(len(case.q), 4, 64)), dim=1)
    backend = attention_backend("auto", AttentionSpec(4, 2, 64, BLOCK_SIZE, torch.float32, CPU))
    backend.plan(case.batch)
    out = backend.run(case.layer_kv, merged[:, :4])
    torch.testing.assert_close(out, expected(case, None), rtol=1e-5, atol=1e-5)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs (d, d + half) as complex numbers."""
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(
        torch.ones_like(angles).double(), angles.double()
    ).unsqueeze(1)
    return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)


def whole_batch(batch: PagedBatch) -> PagedBatch:
    """Every token of the rows is new."""
    tables = np.split(batch.kv_indices, batch.kv_indptr[1:-1])
    where = [np.arange(length) for length in batch.kv_lens]
    slots = [
        table[position // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + position % BLOCK_SIZE
        for table, position in zip(tables, where, strict=True)
    ]
    return PagedBatch(
        qo_indptr=np.cumsum([0, *batch.kv_lens], dtype=np.int32),
        kv_indptr=batch.kv_indptr,
        kv_indices=batch.kv_indices,
        block_ids=batch.block_ids,
        kv_lens=batch.kv_lens,
        positions=torch.from_numpy(np.concatenate(where)),
        slot_mapping=torch.from_numpy(np.concatenate(slots)),
    )


@dataclass(frozen=True)
class Native:
    """A case in the native layout: the history appended in one step, the queries computed in the next."""

    case: Case
    backend: NativeAttention
    layer_kv: Tensor
    angles: Tensor
    dtype: torch.dtype

    def run(self) -> Tensor:
        self.backend.plan(self.case.batch)
        return self.backend.run(self.layer_kv, self.q)

    @property
    def q(self) -> Tensor:
        return self.case.q.to(self.dtype)

    def expected(self, window: int | None) -> Tensor:
        rows = []
        for q, k, v in self.case.rows:
            turned = rotated(k.to(self.dtype), self.angles[: len(k)])
            rows.append(dense(q.to(self.dtype), turned, v.to(self.dtype), window))
        return torch.cat(rows)


def native_case(library: NativeLibrary, case: Case, dtype: torch.dtype, window: int | None = None) -> Native:
    num_kv, head_dim = case.layer_kv.shape[-2:]
    spec = AttentionSpec(case.q.shape[1], num_kv, head_dim, BLOCK_SIZE, dtype, CPU, window)
    backend = NativeAttention(spec, library)
    layer_kv = torch.full(case.layer_kv.shape, torch.nan, dtype=dtype)
    angles = torch.rand(int(case.batch.kv_lens.max()), head_dim // 2, generator=torch.Generator().manual_seed(1)) * 6
    backend.plan(whole_batch(case.batch))
    k, v = (torch.cat(side).to(dtype) for side in list(zip(*case.rows, strict=True))[1:])
    q = torch.zeros(len(k), case.q.shape[1], head_dim, dtype=dtype)
    backend.rotate_append(layer_kv, q, k, v, torch.cat((angles.cos(), angles.sin()), dim=-1))
    return Native(case, backend, layer_kv, angles, dtype)


native = pytest.mark.skipif(not supported_levels(), reason="needs an x86-64 processor with AVX2")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
LONG = (*MIXED, (1, 300), (70, 333), (1, 1000), (3, 515), (1, 4093), (30, 2050))


@pytest.fixture(scope="module", params=supported_levels())
def library(request: pytest.FixtureRequest) -> NativeLibrary:
    return NativeLibrary(compiled_library(request.param), num_threads=2)


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("groups", [1, 3, 8])
@pytest.mark.parametrize("head_dim", [32, 64, 80, 96, 128])
def test_native_equals_dense(library: NativeLibrary, dtype: torch.dtype, head_dim: int, groups: int) -> None:
    case = make_case(LONG, groups, 1, head_dim, num_blocks=MANY_BLOCKS)
    found = native_case(library, case, dtype)
    torch.testing.assert_close(found.run().float(), found.expected(None), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("window", [1, 15, 16, 17, 20, 257, 300, 5000])
def test_native_windows_equal_dense(library: NativeLibrary, dtype: torch.dtype, window: int) -> None:
    found = native_case(library, make_case(LONG, 4, 2, 64, num_blocks=MANY_BLOCKS), dtype, window)
    wanted = found.expected(window)
    torch.testing.assert_close(found.run().float(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@native
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 130), st.integers(0, 600)).map(lambda row: (row[0], sum(row))), max_size=6, min_size=1
    ),
    groups=st.integers(1, 8),
    num_kv=st.integers(1, 3),
    head_dim=st.sampled_from([32, 64, 80, 96, 128]),
    window=st.none() | st.integers(1, 700),
)
def test_native_equals_dense_for_any_batch(
    library: NativeLibrary, lengths: list[tuple[int, int]], groups: int, num_kv: int, head_dim: int, window: int | None
) -> None:
    case = make_case(lengths, groups * num_kv, num_kv, head_dim, num_blocks=MANY_BLOCKS)
    found = native_case(library, case, torch.float32, window)
    torch.testing.assert_close(found.run(), found.expected(window), rtol=2e-5, atol=2e-5)


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("window", [None, 100])
def test_native_rows_are_the_same_to_the_bit_in_any_batch_and_chunk(
    library: NativeLibrary, dtype: torch.dtype, window: int | None
) -> None:
    whole = native_case(library, make_case(((900, 900),), 6, 2, 64, num_blocks=MANY_BLOCKS), dtype, window)
    together, q = whole.run(), whole.q
    for start, stop in ((0, 1), (511, 512), (899, 900), (250, 300), (1, 850)):
        num_blocks = -(-stop // BLOCK_SIZE)
        whole.backend.plan(
            PagedBatch(
                qo_indptr=np.array([0, stop - start], np.int32),
                kv_indptr=np.array([0, num_blocks], np.int32),
                kv_indices=whole.case.batch.kv_indices[:num_blocks],
                block_ids=whole.case.batch.block_ids[:num_blocks],
                kv_lens=np.array([stop], np.int32),
                positions=torch.arange(start, stop),
                slot_mapping=torch.zeros(0, dtype=torch.int64),
            )
        )
        assert torch.equal(whole.backend.run(whole.layer_kv, q[start:stop]), together[start:stop])


@native
def test_native_append_rotates_queries_in_place(library: NativeLibrary) -> None:
    found = native_case(library, make_case(((5, 5), (1, 40)), 4, 2, 80), torch.float32)
    merged = torch.randn(6, 8, 80)
    q, k, v = torch.split(merged.clone(), [4, 2, 2], dim=1)
    cos_sin = torch.cat((found.angles.cos(), found.angles.sin()), dim=-1)
    found.backend.plan(found.case.batch)
    found.backend.rotate_append(found.layer_kv, q, k, v, cos_sin)
    wanted = rotated(merged[:, :4], found.angles[found.case.batch.positions])
    torch.testing.assert_close(q, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(v, merged[:, 6:])


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_native_append_of_ready_keys_is_that_behind_a_rotation(library: NativeLibrary, dtype: torch.dtype) -> None:
    found = native_case(library, make_case(((5, 5), (1, 40), (3, 20)), 4, 2, 80), dtype)
    k, v = (torch.randn(9, 2, 80).to(dtype) for _ in range(2))
    found.backend.plan(found.case.batch)
    still = torch.cat((torch.ones(64, 40), torch.zeros(64, 40)), dim=-1)
    caches = [found.layer_kv.clone() for _ in range(2)]
    found.backend.rotate_append(caches[0], torch.zeros(9, 4, 80, dtype=dtype), k, v, still)
    found.backend.append(caches[1], k, v)
    assert torch.equal(caches[0].view(torch.int16), caches[1].view(torch.int16))


@native
def test_native_says_what_it_cannot_do(library: NativeLibrary) -> None:
    spec = AttentionSpec(4, 2, 64, BLOCK_SIZE, torch.float32, CPU)
    assert KERNELS.unsupported_reason(spec) is None
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"block_size": 8}, "block size that 16 divides, got 8"),
        ({"head_dim": 72}, "heads of 32 to 576 in steps of 16, got 72"),
        ({"dtype": torch.float16}, "got torch.float16"),
        ({"device": torch.device("meta")}, "needs a device of type cpu, got meta"),
        ({"kv_dtype": torch.float8_e4m3fn}, "lacks an fp8 KV cache, got torch.float8_e4m3fn"),
    )
    for change, complaint in changes:
        with pytest.raises(ValueError, match=complaint):
            NativeAttention(replace(spec, **change), library)


def test_unknown_backend_lists_the_known() -> None:
    spec = AttentionSpec(4, 2, 64, BLOCK_SIZE, torch.float32, CPU)
    with pytest.raises(ValueError, match="must be one of auto, torch with kernels torch, got 'flash'"):
        attention_backend("flash", spec)


def test_append_writes_only_its_places() -> None:
    layer_kv = torch.zeros(4, 2, BLOCK_SIZE, 2, 8)
    k, v = torch.randn(2, 3, 2, 8)
    kv_append(layer_kv, k, v, torch.tensor([5, 47, 16]))
    assert torch.equal(layer_kv[0, 0, 5], k[0])
    assert torch.equal(layer_kv[2, 1, 15], v[1])
    assert torch.equal(layer_kv[1, 0, 0], k[2])
    assert layer_kv.count_nonzero() == k.numel() + v.numel()


def test_append_rounds_to_float8_and_stays_in_its_range() -> None:
    layer_kv = torch.zeros(1, 2, BLOCK_SIZE, 1, 6, dtype=torch.float8_e4m3fn)
    k = torch.tensor([0.1, -1.07, 447.0, 1e6, -torch.inf, 0.0005]).view(1, 1, 6)
    kv_append(layer_kv, k, -k, torch.tensor([3]))
    wanted = torch.tensor([0.1015625, -1.125, 448.0, 448.0, -448.0, 0.0])
    assert torch.equal(layer_kv[0, 0, 3, 0].float(), wanted)
    assert torch.equal(layer_kv[0, 1, 3, 0].float(), -wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn], ids=["float32", "float8"])
def test_copy_reads_all_sources_first(dtype: torch.dtype) -> None:
    kv = torch.arange(5.0).view(1, 5, 1, 1, 1, 1).repeat(2, 1, 2, 4, 1, 1).to(dtype)
    kv_copy(kv, torch.tensor([0, 1]), torch.tensor([1, 2]))
    assert kv[:, :, 0, 0, 0, 0].tolist() == [[0, 0, 1, 3, 4]] * 2
