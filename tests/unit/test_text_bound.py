"""`TokenBound` never says more tokens than a text makes, and enough to refuse what cannot fit."""

import unicodedata

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from quire.engine.text.bound import TokenBound

WORDS = ["▁", "▁▁", "▁▁▁▁▁▁▁▁", "▁word", "aaaaaaaa", "word", "é", "\u0301", "\t\t", "  ", "x\u0301", "K", "Å"]
ADDED = [
    AddedToken("<s>", special=True, normalized=False),
    AddedToken("      ", normalized=False),
    AddedToken("a word", normalized=True),
    AddedToken("▁▁▁▁▁▁▁▁▁▁▁▁▁▁", normalized=True),
]
STRIPS = [AddedToken("<|end|>", lstrip=True, rstrip=True, normalized=False)]
# What composes, decomposes, is dropped, or stands for a space.
ODD = ["a", "w", "word", " ", "  ", "      ", "▁", "\t", "\n", "é", "e\u0301", "x\u0301", "\u212a", "\u212b", "\u1fef"]
ODD += ["\u1100\u1161\u11a8", "\N{GRINNING FACE}", "<s>", "<|end|>", "a word", "中", "\x00", "\u3000", "<0x41>"]


def byte_level(
    normalizer: Normalizer | None = None, pre: list[PreTokenizer] | None = None, added: list[AddedToken] = ADDED
) -> tokenizers.Tokenizer:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pre)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = ["".join(one for one, _ in level.pre_tokenize_str(word)) for word in WORDS]
    return bpe([*alphabet, *spelled], normalizer, pre_tokenizers.Sequence([*(pre or []), level]), added)


def byte_fallback(
    normalizer: Normalizer | None = None, pre: PreTokenizer | None = None, added: list[AddedToken] = ADDED
) -> tokenizers.Tokenizer:
    letters = sorted(set("".join(WORDS)))
    return bpe([f"<0x{byte:02X}>" for byte in range(256)] + letters + WORDS, normalizer, pre, added)


def bpe(
    tokens: list[str], normalizer: Normalizer | None, pre: PreTokenizer | None, added: list[AddedToken]
) -> tokenizers.Tokenizer:
    """Every word is one token, by merges that take its letters one after another."""
    vocabulary, merges = dict.fromkeys(["<unk>", *tokens]), []
    for word in tokens:
        if word.startswith("<0x"):
            continue
        for end in range(1, len(word)):
            vocabulary[word[: end + 1]] = vocabulary[word[end]] = None
            merges.append((word[:end], word[end]))
    ids = {token: index for index, token in enumerate(vocabulary)}
    model = models.BPE(ids, list(dict.fromkeys(merges)), unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre is not None:
        backend.pre_tokenizer = pre
    backend.decoder = decoders.Fuse()
    backend.add_tokens(added)
    return backend


LLAMA = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
BOUNDED = {
    "gpt2": byte_level(),
    "qwen2": byte_level(normalizers.NFC(), [pre_tokenizers.Split(Regex(r"\s+|\S+"), "isolated")]),
    "falcon": byte_level(None, [pre_tokenizers.Punctuation(), pre_tokenizers.Digits(True)]),
    "llama2": byte_fallback(LLAMA),
    "llama2-nfc": byte_fallback(normalizers.Sequence([LLAMA, normalizers.NFC()])),
    "nfc-llama2": byte_fallback(normalizers.Sequence([normalizers.NFC(), LLAMA])),
    "metaspace": byte_fallback(None, pre_tokenizers.Metaspace()),
    "strips": byte_level(None, None, ADDED + STRIPS),
    "llama2-strips": byte_fallback(LLAMA, None, ADDED + STRIPS),
}


def without_bytes() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", fuse_unk=True))
    backend.decoder = decoders.Fuse()
    return backend


UNBOUNDED = {
    "drops-spaces": byte_level(None, [pre_tokenizers.WhitespaceSplit()]),
    "drops-matches": byte_level(None, [pre_tokenizers.Split(" ", "removed")]),
    "strips-accents": byte_level(normalizers.StripAccents()),
    "collapses": byte_fallback(normalizers.Replace(Regex(" +"), "▁")),
    "drops-by-replacing": byte_fallback(normalizers.Replace(" ", "")),
    "replaces-words": byte_fallback(normalizers.Replace("word", "w")),
    "fuses-unknown": without_bytes(),
}
TEXTS = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=3)), max_size=30).map("".join)
RUNS = st.tuples(st.sampled_from(ODD), st.integers(0, 100)).map(lambda pair: pair[0] * pair[1])


@pytest.mark.parametrize("name", [*BOUNDED, *UNBOUNDED])
@given(text=st.one_of(TEXTS, RUNS, st.lists(RUNS).map("".join)))
@settings(max_examples=200, deadline=None)
def test_no_text_makes_fewer_tokens(name: str, text: str) -> None:
    backend = (BOUNDED | UNBOUNDED)[name]
    assert TokenBound(backend).fewest_tokens(text.encode()) <= len(backend.encode(text))


@pytest.mark.parametrize("name", BOUNDED)
def test_long_texts_have_a_bound(name: str) -> None:
    bound = TokenBound(BOUNDED[name])
    assert bound.fewest_tokens(b"a" * 10_000) >= 10_000 // 14
    # Tokens that take white space away leave it no weight.
    assert bound.fewest_tokens(b"word " * 10_000) >= 40_000 // 14


def test_the_bound_is_by_the_longest_token_of_each_byte() -> None:
    bound = TokenBound(byte_level(added=[]))
    assert bound.fewest_tokens(b"a" * 8) == 1
    assert bound.fewest_tokens(b"a" * 9) == 2
    assert bound.fewest_tokens(b"z" * 9) == 9


@pytest.mark.parametrize("name", UNBOUNDED)
def test_tokenizers_that_may_lose_text_have_none(name: str) -> None:
    assert TokenBound(UNBOUNDED[name]).fewest_tokens(b"a word " * 1000) == 0


def test_nfc_makes_at_most_one_byte_of_three() -> None:
    for code in range(0x110000):
        char = chr(code)
        if unicodedata.decomposition(char):
            composed, parts = (len(unicodedata.normalize(form, char).encode()) for form in ("NFC", "NFD"))
            assert len(char.encode()) <= 3 * composed
            assert parts <= 3 * composed
