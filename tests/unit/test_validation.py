"""Every limit, its message, and the request that just fits."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.limits import ServingLimits
from quire.engine.api.sampling import SamplingParams
from quire.engine.token_ids import token_array
from quire.engine.validation import fill_defaults, validate

LIMITS = ServingLimits(vocab_size=100, max_model_len=64, num_blocks=1000, block_size=16)


def prompt(length: int) -> np.ndarray:
    return np.full(length, 7, dtype=np.int32)


GOOD = [
    SamplingParams(),
    SamplingParams(temperature=0),
    SamplingParams(temperature=100, top_k=2**31 - 1, top_p=1, min_p=1),
    SamplingParams(top_p=1e-9, min_p=0, seed=0),
    SamplingParams(presence_penalty=-2, frequency_penalty=2, repetition_penalty=10),
    SamplingParams(logprobs=0),
    SamplingParams(logprobs=20),
    SamplingParams(presence_penalty=2, frequency_penalty=-2, repetition_penalty=1e-6),
    SamplingParams(seed=2**64 - 1, max_tokens=1),
    SamplingParams(max_tokens=60),
    SamplingParams(stop=tuple("abcdefghijklmnop")),
    SamplingParams(stop=("ü" * 128,)),
    SamplingParams(stop_token_ids=(0, 99)),
    SamplingParams(stop_token_ids=(5,) * 64),
    SamplingParams(logit_bias={0: -100, 99: 100}, allowed_token_ids=(0, 99), typical_p=1e-6, no_repeat_ngram_size=64),
    SamplingParams(bad_words=("x" * 256,) * 64, bad_words_ids=((0,) * 64,) * 256, min_tokens=60, max_tokens=60),
]
BAD = [
    ("temperature", math.nan, "must be 0 (greedy) to 100, got nan"),
    ("temperature", math.inf, "got inf"),
    ("temperature", -0.1, "got -0.1"),
    ("temperature", 100.5, "got 100.5"),
    ("top_k", -2, "must be 0 (keep all) to 2147483647, got -2"),
    ("top_k", 2**31, "got 2147483648"),
    ("top_p", math.nan, "must be above 0 and at most 1, got nan"),
    ("top_p", 0.0, "got 0.0"),
    ("top_p", 1.5, "got 1.5"),
    ("min_p", -0.1, "must be 0 to 1, got -0.1"),
    ("min_p", 1.5, "got 1.5"),
    ("min_p", math.nan, "got nan"),
    ("presence_penalty", 2.1, "must be -2 to 2, got 2.1"),
    ("presence_penalty", math.nan, "got nan"),
    ("frequency_penalty", -2.1, "must be -2 to 2, got -2.1"),
    ("frequency_penalty", math.inf, "got inf"),
    ("repetition_penalty", 0.0, "must be above 0 and at most 10, got 0.0"),
    ("repetition_penalty", 10.5, "got 10.5"),
    ("repetition_penalty", math.nan, "got nan"),
    ("logprobs", -1, "must be 0 to 20, got -1"),
    ("prompt_logprobs", 21, "must be 0 to 20, got 21"),
    ("typical_p", 0, "must be above 0 and at most 1, got 0"),
    ("typical_p", math.nan, "got nan"),
    ("min_tokens", -1, "must be 0 to 2147483647, got -1"),
    ("min_tokens", 1.5, "must be an integer, got 1.5"),
    ("no_repeat_ngram_size", 65, "must be 0 to 64, got 65"),
    ("allowed_token_ids", (5,) * 1025, "must be at most 1024 tokens, got 1025"),
    ("bad_words", ("a",) * 65, "must be at most 64 strings, got 65"),
    ("logprobs", 21, "got 21"),
    ("seed", -1, "must be 0 to 18446744073709551615, got -1"),
    ("seed", 2**64, "got 18446744073709551616"),
    ("max_tokens", -1, "must be at least 0, got -1"),
    ("max_tokens", -5, "got -5"),
    ("max_tokens", 61, "must be at most 60 behind a prompt of 4 tokens (the model's context is 64), got 61"),
    ("stop", ("x",) * 17, "must be at most 16 strings, got 17"),
    ("stop", ("x", ""), "[1]: must be 1 to 256 bytes of UTF-8, got ''"),
    ("stop", ("ü" * 129,), "[0]: must be 1 to 256 bytes"),
    ("stop", ("a\ud800",), "[0]: must be Unicode without lone surrogates"),
    ("stop_token_ids", (1,) * 65, "must be at most 64 tokens, got 65"),
    ("stop_token_ids", (1, 100), "[1]: must be 0 to 99, got 100"),
    ("stop_token_ids", (-1,), "[0]: must be 0 to 99, got -1"),
    ("stop_token_ids", (2**70,), "[0]: must be 0 to 99"),
]


@pytest.mark.parametrize("params", GOOD)
def test_what_fits_is_accepted(params: SamplingParams) -> None:
    validate(prompt(4), params, LIMITS)
    validate(prompt(4), fill_defaults(params, 4, LIMITS), LIMITS)


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_what_can_never_be_served_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(prompt(4), replace(SamplingParams(), **{name: value}), LIMITS)
    assert str(caught.value).startswith(f"sampling.{name}")
    assert message in str(caught.value)
    assert caught.value.field.startswith(f"sampling.{name}")


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([], r"token_ids: must be at least 1 token, got 0"),
        ([1] * 64, r"token_ids: must be at most 63 tokens \(the model's context of 64, less one\), got 64"),
        ([1, 100], r"token_ids\[1\]: must be 0 to 99, got 100"),
        ([-1], r"token_ids\[0\]: must be 0 to 99, got -1"),
    ],
)
def test_bad_prompts_are_refused(token_ids: list[int], message: str) -> None:
    params = fill_defaults(SamplingParams(), len(token_ids), LIMITS)
    with pytest.raises(InvalidRequest, match=message):
        validate(np.array(token_ids, dtype=np.int32), params, LIMITS)


def test_the_field_that_a_prompt_came_from_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"^text: must be at least 1 token"):
        validate(prompt(0), SamplingParams(), LIMITS, field="text")


def test_the_longest_prompt_leaves_one_token() -> None:
    assert fill_defaults(SamplingParams(), 63, LIMITS).max_tokens == 1
    validate(prompt(63), SamplingParams(), LIMITS)


def test_the_pool_must_hold_the_whole_request() -> None:
    limits = replace(LIMITS, num_blocks=2)
    # 4 + 29 - 1 = 32 cached tokens: the last token is never fed.
    validate(prompt(4), SamplingParams(max_tokens=29), limits)
    message = (
        "with a prompt of 4 tokens this needs 3 KV blocks of 16 tokens, and the largest pool has 2; "
        "must be at most 29, got 30"
    )
    with pytest.raises(InvalidRequest) as caught:
        validate(prompt(4), SamplingParams(max_tokens=30), limits)
    assert str(caught.value) == f"sampling.max_tokens: {message}"


def test_complete_fills_only_what_is_unset() -> None:
    wide = replace(LIMITS, max_model_len=1000)
    assert fill_defaults(SamplingParams(), 4, wide).max_tokens == 128
    assert fill_defaults(SamplingParams(), 4, LIMITS).max_tokens == 60
    given = SamplingParams(max_tokens=5, seed=0, stop=("x",))
    assert fill_defaults(given, 4, LIMITS) == given


@pytest.mark.parametrize(("num_blocks", "max_tokens"), [(1000, 60), (2, 29), (4, 60), (0, 1)])
def test_an_answer_may_fill_what_context_and_pool_leave(num_blocks: int, max_tokens: int) -> None:
    limits = replace(LIMITS, num_blocks=num_blocks)
    filled = fill_defaults(SamplingParams(), 4, limits, fills_context=True)
    assert filled.max_tokens == max_tokens
    if num_blocks:
        validate(prompt(4), filled, limits)
    assert fill_defaults(SamplingParams(max_tokens=3), 4, limits, fills_context=True).max_tokens == 3


def test_seeds_are_drawn_from_64_bits() -> None:
    seeds = [fill_defaults(SamplingParams(), 4, LIMITS).seed or 0 for _ in range(64)]
    assert len(set(seeds)) == 64
    assert max(seeds).bit_length() > 32
    assert all(0 <= seed < 2**64 for seed in seeds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logit_bias": {100: 1.0}}, "sampling.logit_bias[0]: must be 0 to 99, got 100"),
        ({"logit_bias": {5: 101}}, "sampling.logit_bias[5]: must be -100 to 100, got 101"),
        ({"logit_bias": {5: math.nan}}, "sampling.logit_bias[5]: must be -100 to 100, got nan"),
        ({"logit_bias": {5: "1"}}, "sampling.logit_bias[5]: must be a number, got '1'"),
        ({"logit_bias": [5]}, "sampling.logit_bias: must be a mapping from token ids to numbers, got (5,)"),
        ({"logit_bias": [(5, 1.0)] * 1025}, "sampling.logit_bias: must be at most 1024 tokens, got 1025"),
        ({"allowed_token_ids": (1, -1)}, "sampling.allowed_token_ids[1]: must be 0 to 99, got -1"),
        ({"bad_words": ("a", "")}, "sampling.bad_words[1]: must be 1 to 256 bytes of UTF-8, got ''"),
        ({"bad_words": "ab"}, "sampling.bad_words: must be a list of strings, got 'ab'"),
        ({"bad_words_ids": ((1,), ())}, "sampling.bad_words_ids[1]: must be at least 1 token, got 0"),
        ({"bad_words_ids": ((1, 100),)}, "sampling.bad_words_ids[0][1]: must be 0 to 99, got 100"),
        ({"bad_words_ids": ((1,),) * 257}, "sampling.bad_words_ids: must be at most 256 lists, got 257"),
        ({"bad_words_ids": ((1,) * 65,)}, "sampling.bad_words_ids[0]: must be at most 64 tokens, got 65"),
        ({"bad_words_ids": (5,)}, "sampling.bad_words_ids[0]: must be a flat list of integers, got 5"),
        ({"min_tokens": 5, "max_tokens": 4}, "sampling.min_tokens: must be at most max_tokens, 4, got 5"),
    ],
)
def test_lists_of_tokens_and_texts(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(prompt(4), replace(SamplingParams(), **changes), LIMITS)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "off",
    [
        {"top_k": -1}, {"top_k": None}, {"stop": ""}, {"stop": [""]}, {"stop": None}, {"logit_bias": {}},
        {"logit_bias": None}, {"allowed_token_ids": []}, {"bad_words": None}, {"min_tokens": None}, {"top_p": None},
        {"temperature": None}, {"ignore_eos": None}, {"repetition_penalty": None},
    ],
)  # fmt: skip
def test_what_others_take_for_off_is_off(off: dict[str, Any]) -> None:
    assert SamplingParams(**off) == SamplingParams()


def test_token_array_takes_ids_of_any_width() -> None:
    array = token_array([0, 99], LIMITS.vocab_size)
    assert (array.dtype, array.tolist()) == (np.int32, [0, 99])
    assert token_array([], LIMITS.vocab_size).dtype == np.int32
    with pytest.raises(InvalidRequest, match=r"token_ids\[1\]: must be 0 to 99, got 4294967295"):
        token_array([0, 2**32 - 1], LIMITS.vocab_size)
    with pytest.raises(InvalidRequest, match="got 1180591620717411303424"):
        token_array([2**70], LIMITS.vocab_size)


@pytest.mark.parametrize("token_ids", [[1.5], ["a"], [[1, 2]], [1, None], [1, [2]], [1, {}], [[1, [2]]]])
def test_token_array_refuses_what_is_no_list_of_integers(token_ids: list[object]) -> None:
    with pytest.raises(InvalidRequest, match="token_ids: must be a flat list of integers"):
        token_array(token_ids, LIMITS.vocab_size)  # type: ignore[arg-type]
