"""Low-rank adapters in Triton against the reference: on a GPU, or in Triton's interpreter."""

import pytest
import torch

triton = pytest.importorskip("triton")

from quire.kernels.activation import SILU  # noqa: E402
from quire.kernels.adapters import (  # noqa: E402
    Adaptation,
    AdapterRows,
    LowRank,
    ReferenceAdaptedLinear,
    adapted,
    adapts_products,
)
from quire.kernels.cuda.adapters import CudaAdaptedLinear  # noqa: E402
from quire.kernels.gated_linear import gated  # noqa: E402
from quire.kernels.linear import TorchLinear, torch_linear  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_PLACES = 4
# The interpreter multiplies the bits of bfloat16.
HALF = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=["float32", "half"])


def low_rank(rank: int, depth: int, first: int, rows: int, dtype: torch.dtype) -> LowRank:
    down, up = torch.randn(rank, depth) / depth**0.5, torch.randn(rows, rank) / rank**0.5
    return LowRank(down.to(DEVICE, dtype), up.to(DEVICE, dtype), first)


@dtypes
@pytest.mark.parametrize("num_tokens", [1, 7, 300])
@pytest.mark.parametrize(("out", "depth"), [(96, 64), (200, 100)])
def test_products(dtype: torch.dtype, num_tokens: int, out: int, depth: int) -> None:
    weight = (torch.randn(out, depth) / depth**0.5).to(DEVICE, dtype)
    linear, rows = TorchLinear(weight, None, dtype), AdapterRows(NUM_PLACES, max_rank=24)
    found = CudaAdaptedLinear(linear, Adaptation(rows, out, 2, DEVICE))
    wanted = ReferenceAdaptedLinear(linear, rows, {})
    adapters = {
        0: [low_rank(8, depth, 0, out // 2, dtype), low_rank(24, depth, out // 2, out // 2, dtype)],
        1: [low_rank(3, depth, 10, 50, dtype)],
        3: [],
    }
    for place, parts in adapters.items():
        found.adapt(place, parts)
        wanted.adapt(place, parts)
    x = torch.randn(num_tokens, depth).to(DEVICE, dtype)
    for places in (torch.randint(-1, NUM_PLACES, (num_tokens,)), torch.arange(num_tokens) // 100, None):
        rows.plan(None if places is None else places.to(DEVICE, torch.int32))
        torch.testing.assert_close(found(x), wanted(x), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    found.adapt(0, [])
    rows.plan(torch.zeros(num_tokens, dtype=torch.int32, device=DEVICE))
    assert torch.equal(found(x), linear(x))


def test_gated_products() -> None:
    weight = torch.randn(64, 32).to(DEVICE) / 6
    layer, rows = gated(torch_linear)(weight, None, torch.float32, SILU), AdapterRows(NUM_PLACES)
    adaptation = Adaptation(rows, 64, 2, DEVICE)
    found, wanted = adapts_products(CudaAdaptedLinear)(layer, adaptation), adapted(layer, adaptation)
    for each in (found, wanted):
        torch.manual_seed(3)
        each.adapt(2, [low_rank(4, 32, 0, 32, torch.float32), low_rank(9, 32, 32, 32, torch.float32)])
    rows.plan(torch.tensor([2, -1, 2, 0, 2], dtype=torch.int32, device=DEVICE))
    x = torch.randn(5, 32).to(DEVICE)
    torch.testing.assert_close(found(x), wanted(x), rtol=1e-4, atol=1e-4)
