"""Log-probabilities in OpenAI's form: spelling, offsets, and numbers that JSON cannot hold."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models

from quire.engine.api.completion import Completion
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.text.byte_tokens import BYTE_LEVEL
from quire.engine.text.tokenizer import Tokenizer
from quire.services.frontend.http.logprobs import ChoiceLogprobs
from support.tokenizers import byte_tokenizer

BYTE_SPELLINGS = {byte: char for char, byte in BYTE_LEVEL.items()}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_tokenizer()


@pytest.fixture(scope="module")
def pieces_tokenizer() -> Tokenizer:
    """Words with their spaces, and single bytes for the rest; the text's first space is dropped."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "b"]
    vocabulary = {token: index for index, token in enumerate(words)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(backend)


def piece(token_ids: Sequence[int], *logprobs: TokenLogprobs) -> Completion:
    found = logprobs or tuple(TokenLogprobs(-1.0, (), ()) for _ in token_ids)
    return Completion("", tuple(token_ids), None, None, None, "", found)


def made(choice: ChoiceLogprobs, *parts: Completion) -> dict[str, Any]:
    """Of all parts together."""
    found: dict[str, list[Any]] = {}
    for part in parts:
        for name, values in (choice.of(part) or {}).items():
            found.setdefault(name, []).extend(values)
    return found


@pytest.mark.parametrize("size", [1, 2, 100])
def test_offsets_are_where_characters_begin(tokenizer: Tokenizer, size: int) -> None:
    ids = tokenizer.encode("aü€b</s>").tolist()
    parts = [piece(ids[at : at + size]) for at in range(0, len(ids), size)]
    found = made(ChoiceLogprobs(tokenizer), *parts, piece([]))
    spelled = "a bytes:\\xc3 bytes:\\xbc bytes:\\xe2 bytes:\\x82 bytes:\\xac b </s>"
    assert found["tokens"] == spelled.split()
    assert found["text_offset"] == [0, 1, 1, 2, 2, 2, 3, 4]


@pytest.mark.parametrize(
    ("parts", "offsets"),
    [
        ([b"\xe2", b"b", b"c"], [0, 1, 2]),
        ([b"\xc3", b"\xe4"], [0, 1]),
        ([b"\xc3", b"\xe4", b"\xb8", b"\xad", b"b"], [0, 1, 1, 1, 2]),
        ([b"\xe2", b"\x82", b"\xff", b"\x80", b"b"], [0, 0, 1, 2, 3]),
        ([b"\xf0", b"\x9f", b"\xe2", b"\x82", b"\xac", b"\xf0"], [0, 0, 1, 1, 1, 2]),
    ],
)
def test_offsets_behind_broken_bytes(
    tokenizer: Tokenizer, pieces_tokenizer: Tokenizer, parts: list[bytes], offsets: list[int]
) -> None:
    for kind in (tokenizer, pieces_tokenizer):
        ids = [token_of(kind, part) for part in parts]
        assert made(ChoiceLogprobs(kind), piece(ids))["text_offset"] == offsets


def token_of(tokenizer: Tokenizer, byte: bytes) -> int:
    """The token that stands for a single byte."""
    vocabulary: dict[str, int] = tokenizer.backend.get_vocab()
    return vocabulary.get(f"<0x{byte[0]:02X}>", vocabulary.get(BYTE_SPELLINGS[byte[0]], -1))


def test_offsets_where_a_run_of_bytes_is_held_back(pieces_tokenizer: Tokenizer) -> None:
    backend = pieces_tokenizer.backend
    ids = [backend.token_to_id(token) for token in ("▁a", "<0xC3>", "<0xBC>", "b", "▁a")]
    assert pieces_tokenizer.decode(ids) == "aüb a"
    found = made(ChoiceLogprobs(pieces_tokenizer), piece(ids))
    assert found["tokens"] == [" a", "bytes:\\xc3", "bytes:\\xbc", "b", " a"]
    assert found["text_offset"] == [0, 1, 1, 2, 3]


def test_offsets_in_a_run_of_bytes(pieces_tokenizer: Tokenizer) -> None:
    ids = [pieces_tokenizer.backend.token_to_id(token) for token in ("▁a", "<0x0A>", "<0x0A>", "b")]
    assert made(ChoiceLogprobs(pieces_tokenizer), piece(ids))["text_offset"] == [0, 1, 2, 3]


@pytest.mark.parametrize(("echo", "offsets"), [("a</s>b", [0, 0, 1, 5, 6]), ("</s>a</s>b", [0, 4, 5, 9, 10])])
def test_a_special_token_has_room_where_the_prompt_has_it(tokenizer: Tokenizer, echo: str, offsets: list[int]) -> None:
    prompt = tokenizer.encode("</s>a</s>b").tolist()
    known = tuple(TokenLogprobs(-1.0, (), ()) for _ in prompt[1:])
    answer = replace(piece(tokenizer.encode("a").tolist()), prompt_logprobs=known)
    assert (ChoiceLogprobs(tokenizer, echo).of(answer, prompt) or {})["text_offset"] == offsets


def test_the_most_likely_tokens_and_the_sampled_one(tokenizer: Tokenizer) -> None:
    a, b, c, eos = (tokenizer.backend.token_to_id(token) for token in ("a", "b", "c", "</s>"))
    found = made(
        ChoiceLogprobs(tokenizer),
        piece(
            [a, a, a, a],
            TokenLogprobs(-2.0, (b, c), (-0.5, -1.0)),
            TokenLogprobs(-0.5, (a, c), (-0.5, -1.0)),
            # Two ids that the tokenizer does not know are spelled alike.
            TokenLogprobs(-3.0, (eos, 10**6, 10**6 + 1), (-0.25, -1.0, -2.0)),
            TokenLogprobs(-math.inf, (b, c), (0.0, math.nan)),
        ),
    )
    assert found["top_logprobs"] == [
        {"b": -0.5, "c": -1.0, "a": -2.0},
        {"a": -0.5, "c": -1.0},
        {"</s>": -0.25, "": -1.0, "a": -3.0},
        {"b": 0.0, "c": -9999.0, "a": -9999.0},
    ]
    assert found["token_logprobs"] == [-2.0, -0.5, -3.0, -9999.0]


def test_a_piece_without_tokens_has_none(tokenizer: Tokenizer) -> None:
    assert ChoiceLogprobs(tokenizer).of(piece([])) is None
