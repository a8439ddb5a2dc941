"""Low-rank adapters beside products: every backend on this machine against the merged matrices in float32."""

import pytest
import torch
from torch import Tensor

from quire.kernels.activation import SILU, activate
from quire.kernels.adapters import Adaptation, AdaptedLinear, AdapterRows, LowRank, ReferenceAdaptedLinear, adapted
from quire.kernels.coded_linear import CodedLinear
from quire.kernels.coded_weight import int8
from quire.kernels.linear import Linear, TorchLinear
from quire.kernels.native.backend import native_suite
from quire.kernels.native.compiler import compiled_library
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.library import NativeLibrary
from quire.kernels.reference import TORCH_SUITE
from quire.kernels.suite import KernelSuite

TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 1.5e-2}
NUM_PLACES = 5
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(scope="module", params=[*supported_levels(), "torch"])
def suite(request: pytest.FixtureRequest) -> KernelSuite:
    if request.param == "torch":
        return TORCH_SUITE
    return native_suite(NativeLibrary(compiled_library(request.param), num_threads=2))


def low_rank(rank: int, depth: int, first: int, rows: int, dtype: torch.dtype) -> LowRank:
    down, up = torch.randn(rank, depth) / depth**0.5, torch.randn(rows, rank) / rank**0.5
    return LowRank(down.to(dtype), up.to(dtype), first)


def merged(weight: Tensor, parts: list[LowRank]) -> Tensor:
    whole = weight.float().clone()
    for part in parts:
        whole[part.first : part.first + len(part.up)] += part.up.float() @ part.down.float()
    return whole


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(found.float(), wanted.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def adaptation(rows: AdapterRows, out: int) -> Adaptation:
    return Adaptation(rows, out, 3, torch.device("cpu"))


def take(
    linear: Linear, out: int, suite: KernelSuite, rows: AdapterRows, adapters: dict[int, list[LowRank]]
) -> AdaptedLinear:
    layer = suite.adapted(linear, adaptation(rows, out))
    for place, parts in adapters.items():
        layer.adapt(place, parts)
    return layer


@dtypes
@pytest.mark.parametrize("coded", [False, True], ids=["plain", "int8"])
@pytest.mark.parametrize(
    ("outs", "depth"), [((64, 32, 32), 64), ((40, 8, 24), 96), ((7,), 578), ((576, 192, 192), 576)]
)
def test_adapters_of_merged_products(
    suite: KernelSuite, dtype: torch.dtype, coded: bool, outs: tuple[int, ...], depth: int
) -> None:
    plain = torch.randn(sum(outs), depth) / depth**0.5
    weight, bias = plain.to(dtype), torch.randn(sum(outs)).to(dtype)
    firsts = [sum(outs[:i]) for i in range(len(outs))]
    every = [
        low_rank(rank, depth, *at, dtype) for rank, at in zip((8, 17, 3), zip(firsts, outs, strict=True), strict=False)
    ]
    adapters = {0: every, 1: every[-1:], 3: [low_rank(64, depth, 0, outs[0], dtype)], 4: []}
    rows = AdapterRows(NUM_PLACES)
    linear = suite.linear(int8(weight) if coded else weight, bias, dtype)
    layer = take(linear, sum(outs), suite, rows, adapters)
    base = int8(weight).widened(torch.float32) if coded else weight.float()
    for num_tokens in (1, 5, 40, 300):
        x = torch.randn(num_tokens, depth).to(dtype)
        places = torch.randint(-1, NUM_PLACES, (num_tokens,), dtype=torch.int32).sort(descending=num_tokens > 40)[0]
        rows.plan(places)
        found = layer(x)
        for place in range(-1, NUM_PLACES):
            at = places == place
            close(found[at], x[at].float() @ merged(base, adapters.get(place, [])).T + bias.float(), dtype)
        rows.plan(None)
        assert torch.equal(layer(x), linear(x))


@dtypes
@pytest.mark.parametrize("size", [16, 23, 250])
def test_adapters_of_gated_products(suite: KernelSuite, dtype: torch.dtype, size: int) -> None:
    weight = (torch.randn(2 * size, 64) / 8).to(dtype)
    gate, up = low_rank(20, 64, 0, size, dtype), low_rank(9, 64, size, size, dtype)
    adapters = {0: [up, gate], 1: [gate], 2: [up], 3: [low_rank(4, 64, 0, 2 * size, dtype)]}
    rows = AdapterRows(NUM_PLACES)
    layer = take(suite.gated_linear(weight, None, dtype, SILU), 2 * size, suite, rows, adapters)
    x, places = torch.randn(70, 64).to(dtype), torch.arange(70, dtype=torch.int32) % (NUM_PLACES + 1) - 1
    rows.plan(places)
    found = layer(x)
    for place in range(-1, NUM_PLACES):
        at = places == place
        close(found[at], activate(x[at].float() @ merged(weight, adapters.get(place, [])).T, SILU), dtype)


def test_a_place_is_taken_again(suite: KernelSuite) -> None:
    weight, rows = torch.randn(32, 64), AdapterRows(1)
    layer = suite.adapted(suite.linear(weight, None, torch.float32), adaptation(rows, 32))
    x = torch.randn(3, 64)
    rows.plan(torch.zeros(3, dtype=torch.int32))
    for parts in ([low_rank(40, 64, 0, 32, torch.float32)], [], [low_rank(4, 64, 8, 24, torch.float32)]):
        layer.adapt(0, parts)
        close(layer(x), x @ merged(weight, parts).T, torch.float32)


def test_a_row_does_not_depend_on_its_batch(suite: KernelSuite) -> None:
    if suite.name == "torch":
        pytest.skip("the reference rounds as PyTorch does")
    weight, rows = torch.randn(96, 576).bfloat16(), AdapterRows(NUM_PLACES)
    layer = suite.adapted(suite.linear(weight, None, torch.bfloat16), adaptation(rows, 96))
    for place in range(NUM_PLACES):
        layer.adapt(place, [low_rank(16, 576, 0, 96, torch.bfloat16)])
    x, places = torch.randn(200, 576).bfloat16(), torch.arange(200, dtype=torch.int32) // 3 % (NUM_PLACES + 1) - 1
    rows.plan(places)
    whole = layer(x)
    for begin, end in ((0, 1), (7, 9), (100, 200), (13, 27)):
        rows.plan(places[begin:end])
        assert torch.equal(layer(x[begin:end]), whole[begin:end])


def test_a_step_goes_on_with_some_tokens() -> None:
    rows, weight = AdapterRows(2), torch.randn(8, 4)
    layer = ReferenceAdaptedLinear(TorchLinear(weight, None, torch.float32), rows, {})
    part = low_rank(2, 4, 0, 8, torch.float32)
    layer.adapt(1, [part])
    rows.plan(torch.tensor([-1, 1, 0, 1], dtype=torch.int32), torch.tensor([0, 3]))
    x = torch.randn(4, 4)
    tuned = merged(weight, [part])
    close(layer(x), torch.stack([x[i] @ (tuned if i in (1, 3) else weight).T for i in range(4)]), torch.float32)
    close(layer(x[:2]), torch.stack((x[0] @ weight.T, x[1] @ tuned.T)), torch.float32)
    rows.plan(None, torch.tensor([0]))
    assert torch.equal(layer(x[:1]), layer.linear(x[:1]))


def test_codes_take_adapters_too() -> None:
    coded, rows = int8(torch.randn(8, 4)), AdapterRows(1)
    layer = adapted(CodedLinear(coded, None, torch.float32), adaptation(rows, 8))
    part = low_rank(2, 4, 0, 8, torch.float32)
    layer.adapt(0, [part])
    rows.plan(torch.zeros(3, dtype=torch.int32))
    x = torch.randn(3, 4)
    close(layer(x), x @ merged(coded.widened(torch.float32), [part]).T, torch.float32)
