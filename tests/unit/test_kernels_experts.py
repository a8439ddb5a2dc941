"""Mixtures of experts on a CPU: the reference, and C++ at every level of instructions that this processor has."""

import pytest
import torch
from torch import Tensor

from quire.kernels.activation import GELU_TANH, SILU, Activation, clamped_swiglu
from quire.kernels.backend import SuiteOptions
from quire.kernels.experts import ExpertsMaker, ExpertsShape
from quire.kernels.native.backend import native_suite
from quire.kernels.native.compiler import compiled_library
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.library import NativeLibrary
from quire.kernels.reference import BACKEND
from support.experts import Mixture, routed

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(scope="module", params=supported_levels())
def native(request: pytest.FixtureRequest) -> NativeLibrary:
    return NativeLibrary(compiled_library(request.param), num_threads=2)


@pytest.fixture(scope="module", params=["torch", *supported_levels()])
def make(request: pytest.FixtureRequest) -> ExpertsMaker:
    if request.param == "torch":
        cpu = torch.device("cpu")
        return BACKEND.load(SuiteOptions(cpu, torch.float32, torch.get_num_threads())).experts
    library = NativeLibrary(compiled_library(request.param), num_threads=2)
    return native_suite(library).experts


def close(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@dtypes
@pytest.mark.parametrize("int8", [False, True], ids=["", "int8"])
@pytest.mark.parametrize(
    ("sizes", "top_k", "biased", "activation"),
    [
        ((1, 2, 2), 1, True, SILU),
        ((5, 64, 96), 2, False, SILU),
        ((9, 34, 50), 4, True, clamped_swiglu(1.7, 2.0)),
        ((6, 7, 64), 3, True, SILU),  # odd: left to the reference
        ((6, 64, 33), 3, False, GELU_TANH),
        ((40, 96, 64), 8, False, GELU_TANH),
    ],
    ids=str,
)
def test_experts(
    make: ExpertsMaker,
    dtype: torch.dtype,
    int8: bool,
    sizes: tuple[int, int, int],
    top_k: int,
    biased: bool,
    activation: Activation,
) -> None:
    mixture = Mixture.random(ExpertsShape(*sizes), activation, dtype, biased=biased)
    experts = mixture.made_by(make, int8=int8)
    for num_tokens in (0, 1, 2, 13, 40):
        x = torch.randn(num_tokens, mixture.shape.hidden).to(dtype)
        chosen = routed(num_tokens, mixture.shape.num_experts, top_k)
        close(experts(x, *chosen), mixture.wanted(x, *chosen, int8=int8), dtype)


@dtypes
def test_all_tokens_may_choose_one_expert(make: ExpertsMaker, dtype: torch.dtype) -> None:
    mixture = Mixture.random(ExpertsShape(7, 32, 48), SILU, dtype, biased=False)
    experts = mixture.made_by(make)
    x, weights = torch.randn(300, 32).to(dtype), torch.rand(300, 1)
    for expert in (0, 3, 6):
        chosen = torch.full((300, 1), expert, dtype=torch.int32)
        close(experts(x, chosen, weights), mixture.wanted(x, chosen, weights), dtype)


@dtypes
@pytest.mark.parametrize("int8", [False, True], ids=["", "int8"])
@pytest.mark.parametrize("sizes", [(6, 96, 160), (9, 100, 70)], ids=str)
def test_a_token_does_not_depend_on_the_others(
    native: NativeLibrary, dtype: torch.dtype, int8: bool, sizes: tuple[int, int, int]
) -> None:
    mixture = Mixture.random(ExpertsShape(*sizes), SILU, dtype, biased=True)
    experts = mixture.made_by(native_suite(native).experts, int8=int8)
    x, (expert_ids, weights) = torch.randn(530, mixture.shape.hidden).to(dtype), routed(530, sizes[0], 3)
    together = experts(x, expert_ids, weights)
    for count in (1, 3, 12, 17, 64, 529):
        assert torch.equal(experts(x[-count:], expert_ids[-count:], weights[-count:]), together[-count:])


@pytest.mark.skipif(not supported_levels(), reason="needs an x86-64 processor with AVX2")
@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_are_the_same_on_any_number_of_threads(num_threads: int) -> None:
    path = compiled_library(supported_levels()[0])
    mixture = Mixture.random(ExpertsShape(4, 64, 200), SILU, torch.float32, biased=False)
    wanted, found = (mixture.made_by(native_suite(NativeLibrary(path, count)).experts) for count in (2, num_threads))
    for num_tokens in (1, 40):
        x, chosen = torch.randn(num_tokens, 64), routed(num_tokens, 4, 2)
        for _ in range(100):
            assert torch.equal(found(x, *chosen), wanted(x, *chosen))


def test_experts_without_weights_are_refused(native: NativeLibrary) -> None:
    mixture = Mixture.random(ExpertsShape(3, 4, 4), SILU, torch.float32, biased=False)
    experts = native_suite(native).experts(mixture.shape, SILU)
    experts.load(1, mixture.networks[1])
    with pytest.raises(RuntimeError, match="2 of 3 experts have no weights"):
        experts(torch.zeros(1, 4), *routed(1, 3, 1))
