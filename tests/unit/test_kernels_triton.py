"""The Triton kernels against the references: on a GPU, or in Triton's interpreter."""

import numpy as np
import pytest
import torch

from quire.kernels.attention import AttentionSpec, PagedBatch
from quire.kernels.attention_reference import TorchAttention

triton = pytest.importorskip("triton")

from quire.kernels.cuda.attention_context import TritonContext, context_tasks  # noqa: E402
from quire.kernels.cuda.attention_decode import TritonDecode  # noqa: E402
from quire.kernels.cuda.gated_linear import gated, silu_mul  # noqa: E402
from quire.kernels.cuda.linear import CudaLinear  # noqa: E402
from quire.kernels.cuda.rms_norm import add_rms_norm, rms_norm  # noqa: E402
from quire.kernels.cuda.rope_append import rope_append  # noqa: E402
from quire.kernels.cuda.row_product import row_product  # noqa: E402
from quire.kernels.gated_linear import silu_mul as silu_mul_reference  # noqa: E402
from quire.kernels.kv_append import kv_append  # noqa: E402
from quire.kernels.linear import TorchLinear  # noqa: E402
from quire.kernels.rms_norm import add_rms_norm as add_rms_norm_reference  # noqa: E402
from quire.kernels.rms_norm import rms_norm as rms_norm_reference  # noqa: E402
from quire.kernels.rope import rope  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


def close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(found.float(), wanted.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("size", [1, 64, 100, 4096])
def test_rms_norm(dtype: torch.dtype, size: int) -> None:
    x, residual, weight = (random(*shape, dtype=dtype) for shape in ((5, size), (5, size), (size,)))
    close(rms_norm(x, weight, 1e-5), rms_norm_reference(x, weight, 1e-5), dtype)
    normed, total = add_rms_norm(x, residual, weight, 1e-5)
    wanted, sums = add_rms_norm_reference(x, residual, weight, 1e-5)
    assert torch.equal(total, sums)
    close(normed, wanted, dtype)
    assert rms_norm(x[:0], weight, 1e-5).shape == (0, size)


@dtypes
def test_rms_norm_of_heads_inside_a_merged_projection(dtype: torch.dtype) -> None:
    heads, weight = random(9, 7, 32, dtype=dtype)[:, 2:5], random(32, dtype=dtype)
    close(rms_norm(heads, weight, 1e-6), rms_norm_reference(heads, weight, 1e-6), dtype)


@dtypes
@pytest.mark.parametrize("size", [1, 23, 1024, 1500])
def test_silu_mul(dtype: torch.dtype, size: int) -> None:
    gate_up = random(3, 2 * size, dtype=dtype) * 4
    close(silu_mul(gate_up), silu_mul_reference(gate_up.float()), dtype)
    assert silu_mul(gate_up[:0]).shape == (0, size)


def test_a_gated_layer_is_a_product_and_a_gate() -> None:
    weight, x = random(20, 6, dtype=torch.float32), random(4, 6, dtype=torch.float32)
    found = gated(TorchLinear)(weight, None, torch.float32)(x)
    close(found, silu_mul_reference(x @ weight.T), torch.float32)


@dtypes
@pytest.mark.parametrize(("num_qo", "num_kv", "head_dim"), [(6, 2, 32), (4, 4, 64), (20, 1, 96), (9, 9, 128)])
def test_rope_append(dtype: torch.dtype, num_qo: int, num_kv: int, head_dim: int) -> None:
    """Into a cache whose other places must stay as they are."""
    merged = random(11, num_qo + 2 * num_kv, head_dim, dtype=dtype)
    slots = torch.tensor([37, 3, 4, 5, 40, 0, 79, 16, 15, 31, 32], device=DEVICE)
    positions = torch.tensor([0, 3, 4, 5, 99, 1, 7, 8, 9, 31, 32], device=DEVICE)
    angles = torch.rand(100, head_dim // 2, device=DEVICE) * 6
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
    caches, queries = [], []
    for fused in (True, False):
        layer_kv = random(5, 2, 16, num_kv, head_dim, dtype=dtype)
        q, k, v = torch.split(merged.clone(), [num_qo, num_kv, num_kv], dim=1)
        if fused:
            rope_append(layer_kv, q, k, v, cos_sin, positions, slots)
        else:
            rope(q, k, cos_sin, positions)
            kv_append(layer_kv, k, v, slots)
        caches.append(layer_kv)
        queries.append(q)
    close(queries[0], queries[1], dtype)
    close(caches[0], caches[1], dtype)


@dtypes
@pytest.mark.parametrize(("depth", "width"), [(1, 1), (64, 7), (512, 4), (513, 9), (5120, 30)])
def test_a_row_times_a_matrix(dtype: torch.dtype, depth: int, width: int) -> None:
    x, bias = random(1, depth, dtype=dtype), random(width, dtype=dtype)
    weight = random(width, depth, dtype=dtype) * depth**-0.5
    wanted = x.float() @ weight.float().T
    close(row_product(x, weight, None, dtype), wanted, dtype)
    found = row_product(x, weight, bias, torch.float32)
    assert found.dtype == torch.float32
    close(found, wanted + bias.float(), torch.float32)


@dtypes
def test_a_layer_computes_one_row_and_many_alike(dtype: torch.dtype) -> None:
    x, weight, bias = (random(*shape, dtype=dtype) for shape in ((3, 20), (7, 20), (7,)))
    layer = CudaLinear(weight, bias, dtype)
    close(torch.cat([layer(row) for row in x.split(1)]), layer(x), dtype)


@pytest.mark.parametrize(("num_qo", "num_kv", "head_dim"), [(6, 2, 64), (4, 4, 128), (20, 1, 64), (4, 2, 96)])
def test_decoding_of_many_rows(num_qo: int, num_kv: int, head_dim: int) -> None:
    """Queries inside a merged projection; blocks lie anywhere, and what is behind a row's end is not a number."""
    # The interpreter multiplies the bits of bfloat16.
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
    lengths = np.array([1, 16, 17, 63, 64, 65, 150], np.int32)
    indptr = np.concatenate(([0], np.cumsum(-(-lengths // 16)))).astype(np.int32)
    blocks = np.random.default_rng(0).permutation(indptr[-1]).astype(np.int32)
    layer_kv = random(len(blocks), 2, 16, num_kv, head_dim, dtype=dtype)
    q = random(len(lengths), num_qo + 3, head_dim, dtype=dtype)[:, :num_qo]
    rows = torch.arange(len(lengths), device=DEVICE)
    paged = PagedBatch(
        qo_indptr=np.arange(len(lengths) + 1, dtype=np.int32), kv_indptr=indptr, kv_indices=blocks,
        block_ids=torch.from_numpy(blocks).to(DEVICE), kv_lens=lengths, positions=rows, slot_mapping=rows,
    )  # fmt: skip
    reference = TorchAttention(AttentionSpec(num_qo, num_kv, head_dim, 16, torch.float32, DEVICE))
    reference.plan(paged)
    wanted = reference.run(layer_kv.float(), q.float())
    last = (lengths - 1) % 16 + 1
    for row, filled in enumerate(last.tolist()):
        layer_kv[blocks[indptr[row + 1] - 1], :, filled:] = torch.nan
    room = [torch.full((size,), -1, dtype=torch.int32, device=DEVICE) for size in (9, 99, 9)]
    decode, out = TritonDecode(*room), torch.full(wanted.shape, torch.nan, dtype=dtype, device=DEVICE)
    decode.plan(torch.from_numpy(indptr), paged.block_ids, torch.from_numpy(last), num_qo, num_kv, head_dim, 16)
    decode.run(q, layer_kv, out)
    close(out, wanted, torch.bfloat16)


@pytest.mark.parametrize(("num_qo", "num_kv", "head_dim"), [(6, 2, 96), (2, 2, 64), (5, 1, 80)])
def test_context(num_qo: int, num_kv: int, head_dim: int) -> None:
    """New tokens behind old ones; what is behind a row's end is not a number."""
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
    counts, lengths = np.array([70, 1, 5, 2], np.int32), np.array([70, 20, 133, 2], np.int32)
    indptr = np.concatenate(([0], np.cumsum(-(-lengths // 16)))).astype(np.int32)
    qo_indptr = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    blocks = np.random.default_rng(0).permutation(indptr[-1]).astype(np.int32)
    layer_kv = random(len(blocks), 2, 16, num_kv, head_dim, dtype=dtype)
    q = random(int(qo_indptr[-1]), num_qo + 3, head_dim, dtype=dtype)[:, :num_qo]
    places = torch.zeros(len(q), dtype=torch.int64, device=DEVICE)
    paged = PagedBatch(
        qo_indptr=qo_indptr, kv_indptr=indptr, kv_indices=blocks, block_ids=torch.from_numpy(blocks).to(DEVICE),
        kv_lens=lengths, positions=places, slot_mapping=places,
    )  # fmt: skip
    reference = TorchAttention(AttentionSpec(num_qo, num_kv, head_dim, 16, torch.float32, DEVICE))
    reference.plan(paged)
    wanted = reference.run(layer_kv.float(), q.float())
    last = (lengths - 1) % 16 + 1
    for row, filled in enumerate(last.tolist()):
        layer_kv[blocks[indptr[row + 1] - 1], :, filled:] = torch.nan
    context, out = TritonContext(), torch.full(wanted.shape, torch.nan, dtype=dtype, device=DEVICE)
    arrays = (torch.from_numpy(qo_indptr), torch.from_numpy(indptr), paged.block_ids, torch.from_numpy(last))
    context.plan(*arrays, num_qo, num_kv, head_dim, 16)
    context.run(q, layer_kv, out)
    close(out, wanted, torch.bfloat16)


def test_context_is_cut_into_tiles_the_longest_first() -> None:
    tasks = context_tasks(*(np.array(each, np.int32) for each in ([0, 100, 101], [0, 7, 20], [100, 200])), groups=3)
    assert tasks.tolist() == [[100, 1, 0, 7, 200], [0, 100, 2, 0, 100], [0, 100, 1, 0, 100], [0, 100, 0, 0, 100]]
