"""The Triton sampler against the reference: on a GPU, or in Triton's interpreter."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from support.sampling import Row, sampling_rows

triton = pytest.importorskip("triton")

from quire.kernels.cuda import sampling_filter  # noqa: E402
from quire.kernels.cuda.sampling import sample  # noqa: E402
from quire.kernels.philox import uniform  # noqa: E402
from quire.kernels.sampling import sample as reference  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SETTINGS = (
    Row(temperature=0), Row(), Row(0.3), Row(1.5, top_k=1), Row(top_k=7), Row(top_k=10**6), Row(top_p=0.3),
    Row(1.3, top_p=0.95), Row(top_p=1e-6), Row(min_p=0.05), Row(min_p=1.0), Row(0.8, 40, 0.9, 0.02), Row(top_p=0.999),
    Row(0.7, top_p=0.9, min_p=0.1), Row(2.0, top_k=300, min_p=0.001),
)  # fmt: skip


def both(logits: Tensor, rows: list[Row]) -> tuple[list[int], list[int]]:
    """Tokens found, and those of the reference."""
    there = sampling_rows(rows, DEVICE)
    return sample(logits.to(DEVICE), there).tolist(), reference(logits.to(DEVICE), there).tolist()


def random_logits(num_rows: int, vocab_size: int, deviation: float = 3.0) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(vocab_size)) * deviation


@pytest.mark.parametrize("vocab_size", [1, 15, 1003, 4096, 9000])
def test_tokens_are_those_of_the_reference(vocab_size: int) -> None:
    # Large vocabularies take Triton's interpreter long.
    rows = [replace(row, seed=i * 7919, position=i) for i, row in enumerate(SETTINGS * (2 if vocab_size < 2000 else 1))]
    found, wanted = both(random_logits(len(rows), vocab_size), rows)
    assert found == wanted


def test_rows_with_more_likely_tokens_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_filter, "_ROOM", 16)
    rows = [replace(row, seed=i, position=i) for i, row in enumerate(SETTINGS)]
    found, wanted = both(random_logits(len(rows), 1003, deviation=0.5), rows)
    assert found == wanted


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(-8, 8), min_size=1, max_size=40),
    st.floats(0.05, 4),
    st.sampled_from([0, 1, 2, 5, 39, 100]),
    st.one_of(st.just(1.0), st.floats(1e-6, 0.999)),
    st.one_of(st.just(0.0), st.floats(0, 1)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**40),
)  # fmt: skip
def test_ties_and_any_setting(
    values: list[int], temperature: float, top_k: int, top_p: float, min_p: float, seed: int, position: int
) -> None:
    """Where the reference itself decides otherwise after a change by a rounding error, both tokens will do."""
    logits = torch.tensor([values], dtype=torch.float32) / 2
    row = Row(temperature, top_k, top_p, min_p, seed, position)
    found, wanted = both(logits, [row])
    if found != wanted:
        close = [
            Row(temperature * (1 + t), top_k, min(top_p * (1 + p), 1.0), min(min_p * (1 + m), 1.0), seed, position)
            for t in (-1e-6, 0, 1e-6) for p in (-1e-6, 0, 1e-6) for m in (-1e-6, 0, 1e-6)
        ]  # fmt: skip
        assert found[0] in both(logits.expand(len(close), -1), close)[1]


def test_equal_tokens_count_in_order_of_their_ids() -> None:
    logits = torch.zeros(9, 5000)
    rows = [Row(top_k=3, position=position) for position in range(8)] + [Row(temperature=0)]
    found, wanted = both(logits, rows)
    assert found == wanted
    assert set(found) == {0, 1, 2}


def test_the_greatest_is_the_first_and_nan_is_greater() -> None:
    logits = torch.zeros(5, 9000)
    logits[0, [4500, 8999]] = 2.0
    logits[1, [3, 8000]] = torch.nan
    logits[1, 1] = torch.inf
    logits[2] = -torch.inf
    logits[3, 0] = -0.0
    logits[4, :] = -1e30
    assert both(logits, [Row(temperature=0)] * 5) == ([4500, 3, 0, 0, 0],) * 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of which the interpreter is made
def test_extreme_temperatures_and_broken_rows_stay_inside_the_vocabulary() -> None:
    logits = random_logits(6, 5000)
    logits[2] = torch.nan
    logits[3, 1:] = -torch.inf
    logits[4, 17] = torch.nan
    logits[5] = -torch.inf
    rows = [Row(temperature=1e-40), Row(temperature=100), Row(top_p=0.5), Row(top_k=9), Row(), Row(top_k=3, min_p=0.1)]
    found, wanted = both(logits, rows)
    assert found[:2] == wanted[:2]
    assert found[3] == 0
    assert 0 <= min(found) <= max(found) < 5000


def test_a_token_does_not_depend_on_the_batch() -> None:
    logits = random_logits(len(SETTINGS), 5000, deviation=1.0).to(DEVICE)
    rows = [replace(row, seed=i * 977, position=i * 13) for i, row in enumerate(SETTINGS)]
    together = sample(logits, sampling_rows(rows, DEVICE))
    alone = [sample(logits[i : i + 1], sampling_rows([row], DEVICE)).item() for i, row in enumerate(rows)]
    assert together.tolist() == alone
    assert sample(logits[:0], sampling_rows([], DEVICE)).shape == (0,)


def test_the_uniform_number_is_that_of_the_reference() -> None:
    """Every token as likely as another: the token says what the number is."""
    positions = [0, 1, 2**31, 2**32 - 1, 2**40 + 5]
    rows = [Row(seed=seed, position=position) for seed in (0, 1, 2**32, 2**64 - 1) for position in positions]
    seeds = torch.tensor([row.seed for row in rows], dtype=torch.uint64).view(torch.int64)
    numbers = uniform(seeds, torch.tensor([row.position for row in rows]))
    found = sample(torch.zeros(len(rows), 20_000, device=DEVICE), sampling_rows(rows, DEVICE))
    assert found.tolist() == (numbers * 20_000).long().tolist()
