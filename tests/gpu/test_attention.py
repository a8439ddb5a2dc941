"""The attention of the cuda backend, against the reference in float32 on the same paged cache; that on a GPU."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from quire.kernels.attention import AttentionBackend, AttentionSpec, PagedBatch
from quire.kernels.attention_reference import TorchAttention
from quire.kernels.kv_copy import kv_copy
from support.paged_attention import paged_case

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

BLOCK_SIZE, NUM_BLOCKS = 16, 600
# Queries of a row, and its tokens in the cache with them.
MIXED = ((300, 300), (1, 1), (7, 40), (1, 37), (16, 32), (1, 16), (1, 2000), (33, 33), (1, 17))
DECODE = ((1, 1), (1, 16), (1, 17), (1, 900), (1, 31))
MANY = tuple((1, 1 + 29 * row % 150) for row in range(70))


def spec(num_qo: int, num_kv: int, head_dim: int, window: int | None, dtype: torch.dtype) -> AttentionSpec:
    return AttentionSpec(num_qo, num_kv, head_dim, BLOCK_SIZE, dtype, torch.device("cuda"), window)


def batch(rows: tuple[tuple[int, int], ...]) -> PagedBatch:
    free = np.random.default_rng(0).permutation(NUM_BLOCKS).astype(np.int32)
    num_blocks = [-(-kv_len // BLOCK_SIZE) for _, kv_len in rows]
    indptr = np.cumsum([0, *num_blocks], dtype=np.int32)
    positions = np.concatenate([np.arange(kv_len - count, kv_len) for count, kv_len in rows])
    row = np.repeat(np.arange(len(rows)), [count for count, _ in rows])
    slots = free[indptr[row] + positions // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + positions % BLOCK_SIZE
    return PagedBatch(
        qo_indptr=np.cumsum([0, *(count for count, _ in rows)], dtype=np.int32),
        kv_indptr=indptr,
        kv_indices=free[: indptr[-1]],
        block_ids=torch.from_numpy(free[: indptr[-1]]).cuda(),
        kv_lens=np.array([kv_len for _, kv_len in rows], np.int32),
        positions=torch.from_numpy(positions).cuda(),
        slot_mapping=torch.from_numpy(slots).cuda(),
    )


@pytest.fixture(scope="module")
def backend() -> type[AttentionBackend]:
    """The class, where FlashInfer is installed."""
    found: type[AttentionBackend] = pytest.importorskip("quire.kernels.cuda.attention").CudaAttention
    return found


def compare(
    backend: type[Any], num_qo: int, num_kv: int, head_dim: int, window: int | None, fixed: bool,
    rows: tuple[tuple[int, int], ...] = (), kv_dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    torch.manual_seed(1)
    paged = batch(rows or (DECODE if fixed else MIXED))
    num_tokens = int(paged.qo_indptr[-1])
    layer_kv = torch.randn(NUM_BLOCKS, 2, BLOCK_SIZE, num_kv, head_dim, device="cuda", dtype=torch.bfloat16)
    merged = torch.randn(num_tokens, num_qo + 2 * num_kv, head_dim, device="cuda", dtype=torch.bfloat16)
    angles = torch.rand(4096, head_dim // 2, device="cuda") * 6
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        of = replace(spec(num_qo, num_kv, head_dim, window, dtype), kv_dtype=kv_dtype)
        attention = backend(of) if dtype == torch.bfloat16 else TorchAttention(of)
        cache = layer_kv.to(of.stored)
        q, k, v = torch.split(merged.to(dtype, copy=True), [num_qo, num_kv, num_kv], dim=1)
        if fixed and isinstance(attention, backend):
            attention.reserve(len(paged.kv_lens), 4096)
            attention.plan_fixed(paged)
        else:
            attention.plan(paged)
        attention.rotate_append(cache, q, k, v, cos_sin)
        found.append(attention.run(cache, q).float())
    error = (found[0] - found[1]).norm() / found[1].norm()
    # Keys that are rounded once more may fall on another of the few numbers of fp8.
    assert error < (1e-2 if kv_dtype is None else 2e-2), f"relative error {error:.4f}"


@pytest.mark.parametrize("fixed", [False, True], ids=["mixed", "decode"])
@pytest.mark.parametrize(("num_qo", "num_kv", "head_dim"), [(32, 8, 128), (9, 3, 64), (32, 32, 96)])
def test_attention(backend: type[AttentionBackend], num_qo: int, num_kv: int, head_dim: int, fixed: bool) -> None:
    compare(backend, num_qo, num_kv, head_dim, None, fixed)


@pytest.mark.parametrize("fixed", [False, True], ids=["mixed", "decode"])
def test_many_rows(backend: type[AttentionBackend], fixed: bool) -> None:
    compare(backend, 32, 8, 128, None, fixed, MANY if fixed else (MIXED[0], *MANY))


@pytest.mark.parametrize("rows", [((300, 300), *MANY), MIXED, ((9, 500), (1, 300))], ids=["many", "mixed", "few"])
def test_an_fp8_cache(backend: type[AttentionBackend], rows: tuple[tuple[int, int], ...]) -> None:
    """Context of many tokens is widened, and many rows that generate are decoded by our own kernel."""
    compare(backend, 32, 8, 128, None, False, rows, torch.float8_e4m3fn)


@pytest.mark.parametrize("rows", [DECODE, MANY], ids=["few", "many"])
def test_generation_of_fixed_sizes_over_an_fp8_cache(
    backend: type[AttentionBackend], rows: tuple[tuple[int, int], ...]
) -> None:
    compare(backend, 32, 8, 128, None, True, rows, torch.float8_e4m3fn)


@pytest.mark.parametrize("context", [0, 200], ids=["decode", "mixed"])
def test_a_shared_prefix(backend: type[AttentionBackend], context: int) -> None:
    """Of 2,000 tokens, before 70 rows: enough to be computed once."""
    torch.manual_seed(3)
    rows = ((context, context),) * bool(context) + ((1, 2000), *((1, 2000 + each) for each in range(69)))
    random = np.random.default_rng(0)
    indptr, blocks = [0], []
    for row, (_, kv_len) in enumerate(rows):
        shared = 0 if row == 0 and context else 2000 // BLOCK_SIZE - 1
        own = random.integers(0, 400, -(-kv_len // BLOCK_SIZE) - shared)
        blocks += [*range(400, 400 + shared), *own.tolist()]
        indptr.append(len(blocks))
    kv_indices = np.array(blocks, np.int32)
    places = torch.zeros(sum(count for count, _ in rows), dtype=torch.int64, device="cuda")
    paged = PagedBatch(
        qo_indptr=np.cumsum([0, *(count for count, _ in rows)], dtype=np.int32), kv_indptr=np.array(indptr, np.int32),
        kv_indices=kv_indices, block_ids=torch.from_numpy(kv_indices).cuda(),
        kv_lens=np.array([kv_len for _, kv_len in rows], np.int32), positions=places, slot_mapping=places,
    )  # fmt: skip
    cache = torch.randn(NUM_BLOCKS, 2, BLOCK_SIZE, 8, 128, device="cuda", dtype=torch.bfloat16)
    q = torch.randn(len(places), 32, 128, device="cuda", dtype=torch.bfloat16)
    attention, reference = (
        kind(spec(32, 8, 128, None, dtype))
        for kind, dtype in ((backend, torch.bfloat16), (TorchAttention, torch.float32))
    )
    if not context:
        assert attention.shares(paged)
    attention.plan(paged)
    reference.plan(paged)
    found, wanted = attention.run(cache, q).float(), reference.run(cache.float(), q.float())
    error = (found - wanted).norm() / wanted.norm()
    assert error < 1e-2, f"relative error {error:.4f}"


@pytest.mark.parametrize("fixed", [False, True], ids=["mixed", "decode"])
def test_a_sliding_window(backend: type[AttentionBackend], fixed: bool) -> None:
    compare(backend, 32, 8, 128, 100, fixed)


def compare_on_its_cache(backend: type[Any], of: AttentionSpec, fixed: bool) -> None:
    """Against the reference in float32 that reads the cache as the backend has filled it."""
    torch.manual_seed(2)
    paged = batch(DECODE if fixed else MIXED)
    num_tokens, num_qo, num_kv = int(paged.qo_indptr[-1]), of.num_qo_heads, of.num_kv_heads
    cache = torch.randn(NUM_BLOCKS, 2, BLOCK_SIZE, num_kv, of.head_dim, device="cuda").to(of.kv_dtype or of.dtype)
    merged = torch.randn(num_tokens, num_qo + 2 * num_kv, of.head_dim, device="cuda", dtype=of.dtype) * 2
    angles = torch.rand(4096, of.head_dim // 2, device="cuda") * 6
    q, k, v = torch.split(merged, [num_qo, num_kv, num_kv], dim=1)
    attention, reference = backend(of), TorchAttention(replace(of, dtype=torch.float32))
    if fixed:
        attention.reserve(len(DECODE), 4096)
        attention.plan_fixed(paged)
    else:
        attention.plan(paged)
    attention.rotate_append(cache, q, k, v, torch.cat((angles.cos(), angles.sin()), dim=-1))
    sinks = torch.randn(num_qo, device="cuda") * 3 if of.has_sinks else None
    found = attention.run(cache, q, sinks=sinks).float()
    reference.plan(paged)
    wanted = reference.run(cache, q.float(), sinks=sinks)
    error = (found - wanted).norm() / wanted.norm()
    assert error < 1e-2, f"relative error {error:.4f}"


@pytest.mark.parametrize("fixed", [False, True], ids=["mixed", "decode"])
@pytest.mark.parametrize(("num_qo", "num_kv", "head_dim"), [(32, 8, 128), (9, 3, 64)])
def test_keys_and_values_in_float8(
    backend: type[AttentionBackend], num_qo: int, num_kv: int, head_dim: int, fixed: bool
) -> None:
    of = replace(spec(num_qo, num_kv, head_dim, None, torch.bfloat16), kv_dtype=torch.float8_e4m3fn)
    compare_on_its_cache(backend, of, fixed)


@pytest.mark.parametrize("fixed", [False, True], ids=["mixed", "decode"])
def test_a_soft_cap(backend: type[AttentionBackend], fixed: bool) -> None:
    of = replace(spec(32, 8, 128, None, torch.bfloat16), logits_soft_cap=2.0)
    compare_on_its_cache(backend, of, fixed)


@pytest.mark.parametrize("fixed", [False, True], ids=["mixed", "decode"])
@pytest.mark.parametrize("head_dim", [64, 96])
def test_what_has_left_the_window_is_not_read(backend: type[Any], head_dim: int, fixed: bool) -> None:
    of = replace(spec(8, 2, head_dim, 100, torch.bfloat16), has_sinks=True)
    case = paged_case(of, DECODE if fixed else MIXED)
    attention, given_away = backend(of), case.given_away()
    if fixed:
        attention.reserve(len(DECODE), 4096)
        attention.plan_fixed(given_away.batch)
    else:
        attention.plan(given_away.batch)
    sinks = torch.zeros(8, device="cuda") if case.sinks is None else case.sinks.cuda()
    found = attention.run(case.layer_kv.cuda(), case.q.cuda(), sinks=sinks).float().cpu()
    error = (found - case.expected()).norm() / case.expected().norm()
    assert error < 1e-2, f"relative error {error:.4f}"


@pytest.mark.parametrize("fixed", [False, True], ids=["mixed", "decode"])
@pytest.mark.parametrize(("num_qo", "num_kv", "head_dim"), [(64, 8, 64), (9, 3, 128), (32, 8, 96)])
def test_sinks(backend: type[AttentionBackend], num_qo: int, num_kv: int, head_dim: int, fixed: bool) -> None:
    of = replace(spec(num_qo, num_kv, head_dim, None, torch.bfloat16), has_sinks=True, scale=0.2)
    compare_on_its_cache(backend, of, fixed)


@pytest.mark.parametrize("fixed", [False, True], ids=["mixed", "decode"])
@pytest.mark.parametrize("num_qo", [16, 128])
def test_latent_attention(num_qo: int, fixed: bool) -> None:
    kind = pytest.importorskip("quire.kernels.cuda.attention_latent").CudaLatentAttention
    of = replace(spec(num_qo, 1, 576, None, torch.bfloat16), value_dim=512, scale=0.05)
    case, attention = paged_case(of, DECODE if fixed else MIXED), kind(of)
    if fixed:
        attention.reserve(len(DECODE), 4096)
        attention.plan_fixed(case.batch)
    else:
        attention.plan(case.batch)
    found = attention.run(case.layer_kv.cuda(), case.q.cuda()).float().cpu()
    error = (found - case.expected()).norm() / case.expected().norm()
    assert error < 1e-2, f"relative error {error:.4f}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 66, 129, 193])
def test_the_reference_in_pytorch(count: int, dtype: torch.dtype) -> None:
    """Chunks behind context, of all that can be left for the last tile of a kernel's queries: as on a CPU."""
    paged = batch(((count, 273), (count, count), (1, 40)))
    cache = torch.randn(NUM_BLOCKS, 2, BLOCK_SIZE, 2, 64)
    q = torch.randn(int(paged.qo_indptr[-1]), 8, 64)
    found = []
    for device, kind in (("cuda", dtype), ("cpu", torch.float32)):
        attention = TorchAttention(replace(spec(8, 2, 64, None, kind), device=torch.device(device)))
        attention.plan(paged)
        found.append(attention.run(cache.to(device, kind), q.to(device, kind)).float().cpu())
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


def test_blocks_in_float8_are_copied() -> None:
    kv = torch.randn(2, 5, 2, BLOCK_SIZE, 1, 64, device="cuda").to(torch.float8_e4m3fn)
    wanted = kv.float()[:, [0, 0, 1, 3, 4]]
    kv_copy(kv, torch.tensor([0, 1], device="cuda"), torch.tensor([1, 2], device="cuda"))
    assert torch.equal(kv.float(), wanted)
