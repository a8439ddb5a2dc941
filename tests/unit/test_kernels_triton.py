"""The Triton kernels against the references: on a GPU, or in Triton's interpreter."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from quire.engine.model.layers import prepare
from quire.engine.model.transformer import Transformer
from quire.engine.model.weights import LayerWeights, Projection, Weights
from quire.kernels.attention.base import AttentionSpec, PagedBatch
from quire.kernels.attention.torch import TorchAttention
from quire.kernels.decoder_blocks.base import BlockShape
from quire.kernels.suite import TORCH_SUITE

triton = pytest.importorskip("triton")

from quire.kernels.decoder_blocks.triton import fuse  # noqa: E402
from quire.kernels.gated_linear.torch import silu_mul as silu_mul_reference  # noqa: E402
from quire.kernels.gated_linear.triton import gated, silu_mul  # noqa: E402
from quire.kernels.kv_append.torch import kv_append  # noqa: E402
from quire.kernels.linear.cuda import CudaLinear  # noqa: E402
from quire.kernels.linear.torch import TorchLinear  # noqa: E402
from quire.kernels.linear.triton import row_product  # noqa: E402
from quire.kernels.rms_norm.torch import add_rms_norm as add_rms_norm_reference  # noqa: E402
from quire.kernels.rms_norm.torch import rms_norm as rms_norm_reference  # noqa: E402
from quire.kernels.rms_norm.triton import add_rms_norm, rms_norm  # noqa: E402
from quire.kernels.rope.torch import rope  # noqa: E402
from quire.kernels.rope.triton import rope_append  # noqa: E402

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
@pytest.mark.parametrize(("depth", "width"), [(1, 1), (64, 7), (2048, 4), (2049, 9), (5000, 30)])
def test_a_row_times_a_matrix(dtype: torch.dtype, depth: int, width: int) -> None:
    """Bare, and with everything around it, against the same in float32."""
    x, norm, residual = (random(*shape, dtype=dtype) for shape in ((1, depth), (depth,), (1, width)))
    weight, bias = random(2 * width, depth, dtype=dtype) * depth**-0.5, random(2 * width, dtype=dtype)
    close(row_product(x, weight[:width]), x.float() @ weight[:width].float().T, dtype)
    normed = rms_norm_reference(x.float(), norm.float(), 1e-5)
    wanted = silu_mul_reference(normed @ weight.float().T + bias.float())
    close(row_product(x, weight, bias, norm=norm, eps=1e-5, is_gated=True), wanted, dtype)
    found = row_product(x, weight[:width], bias[:width], residual=residual, out_dtype=torch.float32)
    wanted = x.float() @ weight[:width].float().T + bias[:width].float() + residual.float()
    assert found.dtype == torch.float32
    close(found, wanted, torch.float32)


@pytest.mark.parametrize("is_qwen", [False, True])
def test_fused_decoder_blocks(is_qwen: bool) -> None:
    """A token behind two others in the cache, against the single operations in float32."""
    hidden, inner, head_dim = 96, 130, 32
    angles = torch.rand(8, head_dim // 2, device=DEVICE) * 6
    shape = BlockShape(3, 1, head_dim, 1e-5, torch.cat((angles.cos(), angles.sin()), dim=-1))
    place = {name: torch.tensor([at], device=DEVICE) for name, at in (("positions", 2), ("slot_mapping", 18))}
    ints = {"qo_indptr": [0, 1], "kv_indptr": [0, 1], "kv_indices": [1], "kv_lens": [3]}
    arrays = {name: np.array(values, np.int32) for name, values in ints.items()}
    paged = PagedBatch(block_ids=torch.tensor([1], dtype=torch.int32, device=DEVICE), **arrays, **place)
    suite = replace(TORCH_SUITE, linear=CudaLinear, gated_linear=gated(CudaLinear), rms_norm=rms_norm, fuse_blocks=fuse)
    results = []
    for dtype, kernels in ((torch.bfloat16, suite), (torch.float32, replace(suite, gated_linear=gated(TorchLinear)))):

        def tensor(*size: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            scale = size[-1] ** -0.5 if len(size) == 2 else 1.0
            return (random(*size, dtype=torch.bfloat16) * scale).to(dtype)

        def projection(*size: int) -> Projection:
            return Projection(tensor(*size), tensor(size[0]) if is_qwen else None)

        layer = LayerWeights(
            input_norm=tensor(hidden), qkv=projection(5 * head_dim, hidden),
            q_norm=tensor(head_dim) if is_qwen else None, k_norm=tensor(head_dim) if is_qwen else None,
            output=projection(hidden, 3 * head_dim), mlp_norm=tensor(hidden),
            gate_up=projection(2 * inner, hidden), down=projection(hidden, inner),
        )  # fmt: skip
        weights = Weights(tensor(4, hidden), (layer, layer), tensor(hidden), tensor(4, hidden))
        attention = TorchAttention(AttentionSpec(3, 1, head_dim, 16, dtype, DEVICE))
        attention.plan(paged)
        kv = tensor(2, 2, 2, 16, 1, head_dim)
        layers = prepare(weights, shape, [attention, attention], kv, kernels)
        assert (layers.fused is None) == (dtype == torch.float32)
        results.append(Transformer(shape, layers, kernels).hidden(torch.tensor([3], device=DEVICE)))
    error = (results[0].float() - results[1]).norm() / results[1].norm()
    assert error < TOLERANCE[torch.bfloat16], f"relative error {error:.4f}"
