"""Log-probabilities: the reference's order and numbers, and every other backend against the reference."""

import math
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quire.kernels.logprobs import logprobs as reference
from quire.kernels.native.compiler import compiled_library
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.library import NativeLibrary
from quire.kernels.native.logprobs import NativeLogprobs

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Logprobs: TypeAlias = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


@pytest.fixture(scope="module", params=[*supported_levels(), "triton"])
def backend(request: pytest.FixtureRequest) -> Logprobs:
    """Triton's runs on a GPU or in its interpreter."""
    if request.param == "triton":
        found: Logprobs = pytest.importorskip("quire.kernels.cuda.logprobs").logprobs
        return lambda *arguments: on_cpu(found(*(each.to(DEVICE) for each in arguments[:3]), arguments[3]))
    return NativeLogprobs(NativeLibrary(compiled_library(request.param), num_threads=2))


def on_cpu(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return found[0].cpu(), found[1].cpu()


def logits_of(num_rows: int, vocab_size: int, deviation: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(vocab_size)
    # With ties, as products of bfloat16 have them.
    return (torch.randn(num_rows, vocab_size, generator=generator) * deviation).bfloat16().float()


def check(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    assert found[1].dtype == wanted[1].dtype == torch.int32
    assert found[0].dtype == wanted[0].dtype == torch.float32
    assert found[1].tolist() == wanted[1].tolist()
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-6, atol=5e-6, equal_nan=True)


def test_the_reference_is_log_softmax_in_the_order_of_logits_and_ids() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, -2.0, 2.0], [0.0, -0.0, 0.0, 0.0, -torch.inf]])
    values, ids = reference(logits, torch.tensor([3, 4]), torch.tensor([1, 0]), 4)
    assert ids.tolist() == [[0, 1, 2, 3], [1, 2, 4, 0]]
    wanted = logits.double().log_softmax(-1)[[1, 0]]
    torch.testing.assert_close(values[:, 1:].double(), wanted.gather(1, ids.long()))
    torch.testing.assert_close(values[:, 0].double(), wanted[[0, 1], [4, 3]])


@pytest.mark.parametrize("vocab_size", [1, 7, 50, 1003, 4097, 9000])
@pytest.mark.parametrize("deviation", [0.3, 8.0])
def test_every_backend_is_as_the_reference(backend: Logprobs, vocab_size: int, deviation: float) -> None:
    logits = logits_of(9, vocab_size, deviation)
    tokens = torch.arange(9) * 977 % vocab_size
    rows = torch.tensor([7, 0, 3, 4])
    for num_top in {0, 1, min(5, vocab_size), min(20, vocab_size)}:
        check(backend(logits, tokens, rows, num_top), reference(logits, tokens, rows, num_top))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of which Triton's interpreter is made
@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.one_of(st.integers(-4, 4), st.sampled_from([math.nan, math.inf, -math.inf])), min_size=1, max_size=40),
    st.integers(0, 20),
)
def test_ties_and_odd_numbers(backend: Logprobs, values: list[float], num_top: int) -> None:
    row = torch.tensor([0])
    for repeats in (1, 7):
        logits, count = torch.tensor([values * repeats], dtype=torch.float32), min(num_top, repeats * len(values))
        check(backend(logits, row, row, count), reference(logits, row, row, count))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of which Triton's interpreter is made
def test_broken_rows_and_extremes(backend: Logprobs) -> None:
    logits = logits_of(6, 5000)
    logits[0, 4500] = torch.nan
    logits[1] = -torch.inf
    logits[2, 1:] = -torch.inf
    logits[3, 7] = 1e38
    logits[4, :4097] = -torch.inf
    logits[5] = -1e30
    every, tokens = torch.arange(6), torch.tensor([1, 2, 0, 7, 4999, 5])
    check(backend(logits, tokens, every, 6), reference(logits, tokens, every, 6))
    values, _ = backend(logits, tokens, every, 6)
    assert values[:2].isnan().all()
    assert values[2].tolist() == [0.0, 0.0] + [-torch.inf] * 5


def test_a_row_does_not_depend_on_the_batch(backend: Logprobs) -> None:
    logits, tokens, every = logits_of(8, 5000), torch.arange(8), torch.arange(8)
    values, ids = backend(logits, tokens, every, 20)
    for row in (0, 5):
        one_value, one_id = backend(logits, tokens, every[row : row + 1], 20)
        few_values, few_ids = backend(logits, tokens, every[row : row + 1], 3)
        assert torch.equal(values[row], one_value[0])
        assert torch.equal(ids[row], one_id[0])
        assert torch.equal(values[row, :4], few_values[0])
        assert torch.equal(ids[row, :3], few_ids[0])
