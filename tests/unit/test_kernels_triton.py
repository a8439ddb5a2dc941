"""The Triton kernels against the references: on a GPU, or in Triton's interpreter."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from quire.kernels.activation import GELU_TANH, SILU, Activation, clamped_swiglu
from quire.kernels.activation import activate as activate_reference

triton = pytest.importorskip("triton")

from quire.kernels.cuda import activation as cuda_activation  # noqa: E402
from quire.kernels.cuda import rms_norm as cuda_rms_norm  # noqa: E402
from quire.kernels.cuda.float8_rows import RowRounder, float8_rows  # noqa: E402
from quire.kernels.cuda.linear import CudaLinear  # noqa: E402
from quire.kernels.cuda.rope_append import rope_append  # noqa: E402
from quire.kernels.cuda.row_product import row_product  # noqa: E402
from quire.kernels.gated_linear import gated  # noqa: E402
from quire.kernels.kv_append import kv_append  # noqa: E402
from quire.kernels.linear import TorchLinear  # noqa: E402
from quire.kernels.rms_norm import add_rms_norm as add_rms_norm_reference  # noqa: E402
from quire.kernels.rms_norm import rms_norm as rms_norm_reference  # noqa: E402
from quire.kernels.rope import rope  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The interpreter multiplies the bits of bfloat16.
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
activations = pytest.mark.parametrize(
    "activation", [SILU, GELU_TANH, clamped_swiglu(1.7, 2.0)], ids=lambda a: a.gate.name
)
# Without products in fp8.
activate, rms_norm, add_rms_norm = (
    partial(kernel, RowRounder())
    for kernel in (cuda_activation.activate, cuda_rms_norm.rms_norm, cuda_rms_norm.add_rms_norm)
)
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
@activations
def test_activations(dtype: torch.dtype, size: int, activation: Activation) -> None:
    gate_up = random(3, 2 * size, dtype=dtype) * 4
    close(activate(gate_up, activation), activate_reference(gate_up.float(), activation), dtype)
    assert activate(gate_up[:0], activation).shape == (0, size)


@pytest.mark.parametrize("size", [16, 100, 5000])
def test_norms_and_gates_round_rows_that_a_product_wants(size: int) -> None:
    """To the same codes as a kernel of its own does, once; what they return stays as it was."""
    rounder, weight = RowRounder(), random(size, dtype=DTYPE)
    x, residual, gate_up = (random(5, width, dtype=DTYPE) * 4 for width in (size, size, 2 * size))
    computed: list[Callable[[RowRounder], torch.Tensor]] = [
        lambda rounder: cuda_rms_norm.rms_norm(rounder, x, weight, 1e-5),
        lambda rounder: cuda_rms_norm.add_rms_norm(rounder, x, residual, weight, 1e-5)[0],
        lambda rounder: cuda_activation.activate(rounder, gate_up, SILU),
    ]
    for compute in computed:
        assert rounder.room(compute(rounder)) is None
    rounder.expect(size)
    for compute in computed:
        out = compute(rounder)
        assert torch.equal(out, compute(RowRounder()))
        found, wanted = rounder(out), float8_rows(out)
        assert found[0] is rounder(out)[0]
        for each, other in zip(found, wanted, strict=True):
            assert torch.equal(each.float(), other.float())
        assert rounder(out.clone())[0] is not found[0]
    assert rounder.room(out[:1]) is None


def test_a_gated_layer_is_a_product_and_a_gate() -> None:
    weight, x = random(20, 6, dtype=torch.float32), random(4, 6, dtype=torch.float32)
    found = gated(TorchLinear, activate)(weight, None, torch.float32, GELU_TANH)(x)
    close(found, activate_reference(x @ weight.T, GELU_TANH), torch.float32)


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
