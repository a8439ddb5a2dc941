"""Sampling: the generator's known answers, the filters, the distribution, independence of the batch."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from quire.kernels.native.compiler import compiled_library
from quire.kernels.native.levels import supported_levels
from quire.kernels.native.library import NativeLibrary
from quire.kernels.native.sampling import NativeSample
from quire.kernels.philox import philox4x32, uniform
from quire.kernels.sampling import keep_likely, sample, scale
from support.sampling import Row, sampling_rows

VOCAB = 50


def logits_of(num_rows: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter: str, key: str, answer: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([int(word, 16)]) for word in counter.split())
    k0, k1 = (torch.tensor([int(word, 16)]) for word in key.split())
    words = philox4x32((c0, c1, c2, c3), (k0, k1))
    assert " ".join(f"{word.item():08x}" for word in words) == answer


def test_uniform_is_uniform_over_positions_and_over_seeds() -> None:
    count, bins = 20_000, 50
    many, one = torch.arange(count), torch.full((count,), 123)
    for u in (uniform(one, many), uniform(many, one)):
        assert 0 <= u.min() < u.max() < 1
        observed = torch.histc(u, bins, 0, 1)
        chi_square = ((observed - count / bins) ** 2 / (count / bins)).sum()
        # Mean bins - 1, deviation sqrt(2 (bins - 1)): five deviations.
        assert chi_square < bins - 1 + 5 * math.sqrt(2 * (bins - 1))


def test_the_whole_seed_counts() -> None:
    seeds = torch.tensor([0, 1, 1 << 32, -1, (1 << 63) - 1])
    assert len(set(uniform(seeds, torch.zeros_like(seeds)).tolist())) == len(seeds)


def test_greedy_rows_take_the_likeliest() -> None:
    logits = logits_of(4)
    rows = [Row(temperature=0), Row(), Row(temperature=0, top_k=3), Row(top_k=1, seed=9)]
    tokens = sample(logits, sampling_rows(rows))
    assert tokens[[0, 2, 3]].tolist() == logits.argmax(-1)[[0, 2, 3]].tolist()


def test_top_k_breaks_ties_by_token_id() -> None:
    logits = torch.zeros(64, VOCAB)
    rows = [Row(top_k=2, position=position) for position in range(64)]
    assert set(sample(logits, sampling_rows(rows)).tolist()) == {0, 1}


@pytest.mark.parametrize(
    "row",
    [
        Row(temperature=0.5),
        Row(temperature=1.7, top_k=7),
        Row(top_k=VOCAB + 10),
        Row(temperature=0.7, top_p=0.8),
        Row(top_p=0.01),
        Row(temperature=1.3, min_p=0.1),
        Row(min_p=1.0),
        Row(temperature=0.9, top_k=20, top_p=0.9, min_p=0.05),
    ],
)
def test_filters_keep_what_the_warpers_of_transformers_keep(row: Row) -> None:
    logits = logits_of(16)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(row.temperature)])
    if row.top_k:
        warpers.append(TopKLogitsWarper(row.top_k))
    if row.top_p < 1:
        warpers.append(TopPLogitsWarper(row.top_p))
    if row.min_p:
        warpers.append(MinPLogitsWarper(row.min_p))
    ids: Any = torch.zeros((16, 1), dtype=torch.int64)
    wanted = warpers(ids, logits.clone()).softmax(-1)
    temperature = torch.full((16,), row.temperature)
    top_k, top_p, min_p = (torch.full((16,), value) for value in (row.top_k, row.top_p, row.min_p))
    found = keep_likely(scale(logits, temperature), top_k, top_p, min_p).softmax(-1)
    assert torch.equal(found > 0, wanted > 0)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("row", [Row(), Row(temperature=1.5, top_p=0.9), Row(top_k=10), Row(min_p=0.02)])
def test_tokens_follow_the_distribution(row: Row) -> None:
    count = 20_000
    logits = logits_of(1)
    rows = [Row(row.temperature, row.top_k, row.top_p, row.min_p, 7, position) for position in range(count)]
    tokens = sample(logits.expand(count, -1), sampling_rows(rows))
    parameters = (torch.tensor([value]) for value in (row.top_k, row.top_p, row.min_p))
    probs = keep_likely(scale(logits, torch.tensor([row.temperature])), *parameters).softmax(-1)[0].double()
    observed = torch.bincount(tokens, minlength=VOCAB)
    assert observed[probs == 0].sum() == 0
    common = probs * count >= 5
    chi_square = ((observed - count * probs)[common] ** 2 / (count * probs[common])).sum().item()
    freedom = int(common.sum()) - 1
    assert freedom >= 4
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_a_token_does_not_depend_on_the_batch() -> None:
    logits = logits_of(12)
    rows = [
        Row(0.8, (0, 5, 0)[i % 3], (1.0, 0.7)[i % 2], (0.0, 0.05)[i // 6], seed=i * 977, position=i * 13)
        for i in range(11)
    ] + [Row(temperature=0)]
    together = sample(logits, sampling_rows(rows))
    alone = torch.cat([sample(logits[i : i + 1], sampling_rows([row])) for i, row in enumerate(rows)])
    backwards = sample(logits.flip(0), sampling_rows(rows[::-1])).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    logits = logits_of(1).expand(200, -1)
    first, again, other = (
        sample(logits, sampling_rows([Row(seed=seed, position=position) for position in range(200)]))
        for seed in (1 << 63, 1 << 63, 5)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


native = pytest.mark.skipif(not supported_levels(), reason="needs an x86-64 processor with AVX2")


@pytest.fixture(scope="module", params=supported_levels())
def native_sample(request: pytest.FixtureRequest) -> NativeSample:
    return NativeSample(NativeLibrary(compiled_library(request.param), num_threads=2))


@native
@pytest.mark.parametrize("vocab", [1, 15, 16, 50, 1003])
def test_native_tokens_are_those_of_the_reference(native_sample: NativeSample, vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    count = 600
    logits = torch.randn(count, vocab, generator=generator) * 3
    settings = [
        Row(temperature=0), Row(), Row(0.3), Row(1.5, top_k=1), Row(top_k=7), Row(top_k=vocab + 3), Row(top_p=0.3),
        Row(1.3, top_p=0.95), Row(top_p=1e-6), Row(min_p=0.05), Row(min_p=1.0), Row(0.8, 40, 0.9, 0.02),
    ]  # fmt: skip
    rows = [replace(settings[i % len(settings)], seed=i * 7919, position=i) for i in range(count)]
    wanted, found = sample(logits, sampling_rows(rows)), native_sample(logits, sampling_rows(rows))
    # They round differently, which shows only where u falls within a rounding error of a token's edge.
    assert (wanted == found).float().mean() > 0.998


@native
def test_native_breaks_ties_by_token_id(native_sample: NativeSample) -> None:
    logits = torch.zeros(64, VOCAB)
    rows = [Row(top_k=2, position=position) for position in range(63)] + [Row(temperature=0)]
    tokens = native_sample(logits, sampling_rows(rows))
    assert set(tokens[:-1].tolist()) == {0, 1}
    assert tokens[-1] == 0


@native
@pytest.mark.parametrize("row", [Row(), Row(temperature=1.5, top_p=0.9), Row(top_k=10), Row(min_p=0.02)])
def test_native_tokens_follow_the_distribution(native_sample: NativeSample, row: Row) -> None:
    count = 20_000
    logits = logits_of(1)
    rows = sampling_rows([replace(row, seed=7, position=position) for position in range(count)])
    tokens = native_sample(logits.repeat(count, 1), rows)
    parameters = (torch.tensor([value]) for value in (row.top_k, row.top_p, row.min_p))
    probs = keep_likely(scale(logits, torch.tensor([row.temperature])), *parameters).softmax(-1)[0].double()
    observed = torch.bincount(tokens, minlength=VOCAB)
    assert observed[probs == 0].sum() == 0
    common = probs * count >= 5
    chi_square = ((observed - count * probs)[common] ** 2 / (count * probs[common])).sum().item()
    freedom = int(common.sum()) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


@native
def test_native_survives_broken_rows(native_sample: NativeSample) -> None:
    logits = logits_of(6)
    logits[2] = torch.nan
    logits[3, 1:] = -torch.inf
    logits[4, 17] = torch.nan
    logits[5] = -torch.inf
    rows = [Row(temperature=1e-40), Row(temperature=100), Row(top_p=0.5), Row(), Row(temperature=0), Row(top_k=3)]
    tokens = native_sample(logits, sampling_rows(rows))
    assert tokens[0] == logits[0].argmax()
    assert tokens[3] == 0
    assert tokens[4] == 17
    assert 0 <= tokens.min() <= tokens.max() < VOCAB
    assert native_sample(logits[:0], sampling_rows([])).shape == (0,)


def test_extreme_temperatures_and_broken_rows_stay_inside_the_vocabulary() -> None:
    logits = logits_of(4)
    logits[2] = torch.nan
    logits[3, 1:] = -torch.inf
    rows = [Row(temperature=1e-40), Row(temperature=100), Row(top_p=0.5), Row()]
    tokens = sample(logits, sampling_rows(rows))
    assert tokens[0] == logits[0].argmax()
    assert tokens[3] == 0
    assert 0 <= tokens.min() <= tokens.max() < VOCAB
