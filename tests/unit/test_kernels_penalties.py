"""Penalties: the reference against `transformers` and plain Python, every other backend against the reference."""

import math
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from quire.kernels.native.compiler import compiled_library
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.library import NativeLibrary
from quire.kernels.native.penalties import NativePenalize
from quire.kernels.penalties import GENERATED, IN_PROMPT, PenaltyRows, penalize
from support.penalties import Penalized, penalty_rows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SETTINGS = (
    Penalized([3, 3, 7, 0], [7, 1, 1, 1], presence=0.5, frequency=0.25, repetition=1.3),
    Penalized([2], [], repetition=0.7),
    Penalized([1, 2], [2, 4], presence=-2.0),
    Penalized([4], [0, 0, 0, 0, 0, 0, 5], frequency=1.1),
    Penalized([0, 1, 2, 3, 4, 5, 6, 7], [8] * 100, presence=2.0, frequency=-0.013, repetition=10.0),
)


def logits_of(num_rows: int, vocab_size: int) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(vocab_size)) * 4


def many(vocab_size: int) -> list[Penalized]:
    """As many tokens as a real sequence has."""
    draw = torch.Generator().manual_seed(7)
    return [
        Penalized(
            torch.randint(vocab_size, (vocab_size // 3,), generator=draw).tolist(),
            torch.randint(vocab_size // 7 + 1, (vocab_size,), generator=draw).tolist(),
            *torch.empty(3).uniform_(0.1, 2.0, generator=draw).tolist(),
        )
        for _ in range(4)
    ]  # fmt: skip


def test_repetition_is_that_of_transformers_to_the_bit() -> None:
    logits = logits_of(3, 50)
    for repetition in (1.0, 1.1, 1.7, 0.6, 10.0):
        rows = [Penalized([1, 2, 2], [3, 49, 1], repetition=repetition)] * 3
        ids = torch.tensor([row.prompt + row.generated for row in rows])
        # The protocol has float32.
        exact = torch.tensor(repetition, dtype=torch.float32).item()
        wanted = RepetitionPenaltyLogitsProcessor(exact)(ids, logits.clone())  # type: ignore[arg-type]
        found = logits.clone()
        penalize(found, penalty_rows(rows, 50))
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("row", SETTINGS)
def test_the_formula_in_plain_python(row: Penalized) -> None:
    logits = logits_of(1, 50)
    found = logits.clone()
    penalize(found, penalty_rows([row], 50))
    for token, x in enumerate(logits[0].tolist()):
        count = row.generated.count(token)
        if token in row.prompt or count:
            x = x / row.repetition if x > 0 else x * row.repetition
        wanted = x - row.presence * (count > 0) - row.frequency * count
        assert found[0, token].item() == pytest.approx(wanted, rel=1e-6, abs=1e-6)


Penalize: TypeAlias = Callable[[Tensor, PenaltyRows], None]


@pytest.fixture(params=[*supported_levels(), "triton"])
def backend(request: pytest.FixtureRequest) -> Penalize:
    """Triton's runs on a GPU or in its interpreter."""
    if request.param == "triton":
        found: Penalize = pytest.importorskip("quire.kernels.cuda.penalties").penalize
        return found
    return NativePenalize(NativeLibrary(compiled_library(request.param), num_threads=2))


def both(backend: Penalize, logits: Tensor, rows: list[Penalized], where: list[int]) -> tuple[Tensor, Tensor]:
    device = torch.device("cpu") if isinstance(backend, NativePenalize) else DEVICE
    found, wanted = logits.clone().to(device), logits.clone().to(device)
    there = penalty_rows(rows, logits.shape[1], where, device)
    backend(found, there)
    penalize(wanted, there)
    return found.cpu(), wanted.cpu()


@pytest.mark.parametrize("vocab_size", [9, 1003, 5000])
def test_every_backend_gives_the_bits_of_the_reference(backend: Penalize, vocab_size: int) -> None:
    rows = [*SETTINGS, *many(vocab_size)]
    # Every other row of the logits, in another order.
    where = list(range(2 * len(rows) - 1, 0, -2))
    logits = logits_of(2 * len(rows) + 1, vocab_size)
    found, wanted = both(backend, logits, rows, where)
    assert torch.equal(found, wanted)
    assert torch.equal(found[::2], logits[::2]), "rows that nobody penalised"
    assert not torch.equal(found[where], logits[where])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of which Triton's interpreter is made
def test_broken_rows_and_extremes(backend: Penalize) -> None:
    logits = torch.tensor([[math.nan, math.inf, -math.inf, 0.0, -0.0, 1e38, -1e38, 1e-44, 3.0]])
    rows = [Penalized(list(range(8)), list(range(4)), 2.0, 2.0, repetition) for repetition in (10.0, 1e-30)]
    for row in rows:
        found, wanted = both(backend, logits, [row], [0])
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
        assert found[0, 8] == 3.0


def test_counts_say_where_a_token_was() -> None:
    rows: PenaltyRows = penalty_rows([Penalized([1, 1], [1, 2, 2])], 4)
    assert rows.counts.tolist() == [[0, IN_PROMPT + GENERATED, 2 * GENERATED, 0]]
