"""`OutputText`: tokens in, text out, ended by a string or by a token."""

import pytest

from quire.engine.api.sampling import SamplingParams
from quire.engine.text.output import OutputText
from quire.engine.text.tokenizer import Tokenizer
from support.tokenizers import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_tokenizer()


def test_text_is_that_of_the_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Füße 😀")
    output = OutputText(tokenizer)
    text = "".join(output.push(ids[at : at + 1]) for at in range(len(ids))) + output.finish()
    assert text == "Füße 😀"
    assert output.num_tokens == len(ids)
    assert output.matched is None


def test_stop_string_ends_text_and_tokens(tokenizer: Tokenizer) -> None:
    output = OutputText(tokenizer, SamplingParams(stop=["END"]))
    assert output.push(tokenizer.encode("one EN")) == "one "
    assert output.push(tokenizer.encode("D more")) == ""
    assert output.matched == "END"
    assert output.num_tokens == len("one END")
    assert output.push(tokenizer.encode("more")) + output.finish(tokenizer.encode("x")) == ""
    assert output.num_tokens == len("one END")


def test_held_text_comes_at_the_end(tokenizer: Tokenizer) -> None:
    output = OutputText(tokenizer, SamplingParams(stop=["END"]))
    assert output.push(tokenizer.encode("one E")) == "one "
    assert output.finish(tokenizer.encode("N")) == "EN"


@pytest.mark.parametrize("stop_token", ["x", "</s>"])
def test_stop_token_makes_no_text(tokenizer: Tokenizer, stop_token: str) -> None:
    output = OutputText(tokenizer)
    ids = tokenizer.encode("one" + stop_token)
    assert output.finish(ids, by_stop_token=True) == "one"
    assert output.num_tokens == len(ids)


def test_stop_string_before_the_stop_token_wins(tokenizer: Tokenizer) -> None:
    output = OutputText(tokenizer, SamplingParams(stop=["n"]))
    assert output.finish(tokenizer.encode("one</s>"), by_stop_token=True) == "o"
    assert output.matched == "n"
    assert output.num_tokens == 2


def test_stop_string_may_match_what_the_end_releases(tokenizer: Tokenizer) -> None:
    output = OutputText(tokenizer, SamplingParams(stop=["\N{REPLACEMENT CHARACTER}"]))
    assert output.push(tokenizer.encode("a😀")[:-1]) == "a"
    assert output.finish() == ""
    assert output.matched == "\N{REPLACEMENT CHARACTER}"
