"""Mixtures of experts in Triton: on a GPU, or in Triton's interpreter."""

from dataclasses import dataclass

import pytest
import torch

from support.experts import Mixture, routed

triton = pytest.importorskip("triton")

from quire.kernels.activation import GELU_TANH, SILU, Activation, clamped_swiglu  # noqa: E402
from quire.kernels.cuda.expert_groups import order  # noqa: E402
from quire.kernels.cuda.experts import MOST_TOKENS_BY_ROW, CudaExperts  # noqa: E402
from quire.kernels.experts import ExpertsShape  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies the bits of bfloat16.
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Case:
    sizes: tuple[int, int, int]
    top_k: int
    dtype: torch.dtype
    activation: Activation = SILU
    biased: bool = False
    int8: bool = False

    def check(self, *counts: int) -> None:
        """Of so many tokens."""
        shape = ExpertsShape(*self.sizes)
        mixture = Mixture.random(shape, self.activation, self.dtype, biased=self.biased, device=DEVICE)
        experts = mixture.made_by(CudaExperts, int8=self.int8)
        for num_tokens in counts:
            x = torch.randn(num_tokens, shape.hidden).to(DEVICE, self.dtype)
            chosen = routed(num_tokens, shape.num_experts, self.top_k, DEVICE)
            found, wanted = experts(x, *chosen), mixture.wanted(x, *chosen, int8=self.int8)
            assert found.dtype == self.dtype
            tolerance = TOLERANCE[self.dtype]
            torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "case",
    [
        Case((1, 2, 2), 1, torch.float32, biased=True),
        Case((5, 34, 50), 3, torch.float32, clamped_swiglu(1.7, 2.0), biased=True, int8=True),
        Case((3, 7, 33), 2, HALF, GELU_TANH),
        Case((9, 24, 10), 8, HALF, biased=True),
    ],
    ids=["one", "int8", "odd", "eight"],
)
def test_experts(case: Case) -> None:
    case.check(0, 1, 2, MOST_TOKENS_BY_ROW + 1, 23)


def test_depths_beyond_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    Case((2, 300, 140), 1, torch.float32).check(MOST_TOKENS_BY_ROW + 1)
    # Programs of rows are so many that they should be small.
    monkeypatch.setattr("quire.kernels.cuda.expert_rows._TILE", 64)
    Case((5, 70, 50), 3, torch.float32, biased=True).check(1)


def test_blocks_of_many_rows() -> None:
    """Of 16, of 64, then of 128."""
    Case((2, 16, 8), 1, torch.float32).check(20, 100, 200)


def test_rows_are_ordered_by_expert() -> None:
    ids = torch.tensor([[3, 0], [3, 5], [0, 3], [5, 0]], device=DEVICE)
    pairs, firsts, counts = order(ids, 6)
    assert pairs.tolist() == [1, 4, 7, 0, 2, 5, 3, 6]
    assert firsts.tolist() == [0, 3, 3, 3, 6, 6]
    assert counts.tolist() == [3, 0, 0, 3, 0, 2]
    many = torch.randint(40, (3000, 2), dtype=torch.int32, device=DEVICE)
    assert torch.equal(order(many, 40).pairs.long(), many.flatten().argsort(stable=True))
