"""Pieces add up to the whole, for tokenizers of both kinds and any ids."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from quire.engine.api.errors import StartupError
from quire.engine.api.sampling import SamplingParams
from quire.engine.text.detokenizer import Detokenizer
from quire.engine.text.output import OutputText
from quire.engine.text.tokenizer import Tokenizer

CORPUS = ["the quick brown fox", "def push(self, ids): return ids", "Füße über Öl 中文 😀 naïve"] * 4
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("added text", special=False), AddedToken("中", special=False)])
    return Tokenizer(backend)


def pieces(decoder: decoders.Decoder) -> Tokenizer:
    words = ["▁", "▁▁", "▁the", "fox", "中", "é", "<0x4>", "\N{REPLACEMENT CHARACTER}"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {token: index for index, token in enumerate(SPECIAL + bytes_ + words)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoder
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([AddedToken(" spaced ", special=False)])
    return Tokenizer(backend)


def llama_steps(*more: decoders.Decoder) -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *more])


TOKENIZERS = {
    "byte-level": byte_level(),
    "llama": pieces(llama_steps(decoders.Strip(" ", 1, 0))),
    "llama-no-strip": pieces(llama_steps()),
    "metaspace": pieces(decoders.Metaspace()),
}


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Random ids, some unknown; and encoded text with single ids changed, which keeps most of it whole."""
    any_id = st.integers(0, tokenizer.vocab_size + 3)
    emoji = st.lists(st.sampled_from([tokenizer.encode(text).tolist() for text in ("😀", "é", "▁ x", " ")]))
    mixed = st.lists(st.one_of(any_id.map(lambda one: [one]), st.text(max_size=6).map(encode(tokenizer))))
    return st.one_of(st.lists(any_id), emoji.map(flat), mixed.map(flat))


def encode(tokenizer: Tokenizer):
    return lambda text: tokenizer.encode(text).tolist()


def flat(lists: list[list[int]]) -> list[int]:
    return [one for part in lists for one in part]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_pieces_add_up_to_the_whole(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    ids = data.draw(ids_of(tokenizer))
    size = data.draw(st.integers(1, 5))
    detokenizer = Detokenizer(tokenizer)
    parts = [detokenizer.push(ids[at : at + size]) for at in range(0, len(ids), size)]
    text = "".join(parts) + detokenizer.flush()
    assert text == tokenizer.decode(ids)
    # The library gives up on a whole run of bytes where a part is no character.
    expected = tokenizer.backend.decode(ids)
    if name not in ("llama", "llama-no-strip") or "\N{REPLACEMENT CHARACTER}" not in text:
        assert text == expected


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        ("<0x0A> <0x0A> fox", ["\n", "\n", "fox"]),
        ("<0xE4> <0xB8> <0xAD> <0xE4> <0xB8> <0xAD>", ["", "", "中", "", "", "中"]),
        ("<0xE4> fox", ["", "\N{REPLACEMENT CHARACTER}fox"]),
        ("<0x41> <0xFF> <0x42>", ["A", "\N{REPLACEMENT CHARACTER}", "B"]),
        ("<0x20> <0x20> <0x41>", ["", " ", "A"]),
    ],
)
def test_every_complete_character_of_a_run_of_bytes_leaves_at_once(tokens: str, parts: list[str]) -> None:
    tokenizer = TOKENIZERS["llama"]
    detokenizer = Detokenizer(tokenizer)
    ids = [tokenizer.backend.token_to_id(token) for token in tokens.split()]
    assert [detokenizer.push([token_id]) for token_id in ids] == parts


@pytest.mark.parametrize("name", ["byte-level", "llama"])
def test_only_whole_characters_come_out(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("a 🎉 b")
    detokenizer = Detokenizer(tokenizer)
    parts = [detokenizer.push(ids[at : at + 1]) for at in range(len(ids))]
    assert "".join([*parts, detokenizer.flush()]) == "a 🎉 b"
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)
    assert "" in parts


def test_a_stream_of_broken_bytes_is_not_held_back() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    lone = tokenizer.backend.token_to_id("Ģ")  # byte 0x80: continues nothing
    assert lone is not None
    detokenizer = Detokenizer(tokenizer)
    assert all(detokenizer.push(np.array([lone])) == "\N{REPLACEMENT CHARACTER}" for _ in range(1000))


def test_unfinished_character_ends_as_replacement() -> None:
    tokenizer = TOKENIZERS["llama"]
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode("😀").tolist()[-4:]
    assert detokenizer.push(ids[:2]) == ""
    assert detokenizer.flush() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("name", "token", "spelled"),
    [
        ("byte-level", "Ġ", " "),
        ("byte-level", "Ģ", "bytes:\\x80"),
        ("byte-level", "added text", "added text"),
        ("byte-level", "中", "中"),
        ("byte-level", "</s>", "</s>"),
        ("llama", "▁the", " the"),
        ("llama", "<0xE4>", "bytes:\\xe4"),
        ("llama", "<0x41>", "A"),
        ("llama", " spaced ", " spaced "),
        ("metaspace", "<0x41>", "<0x41>"),
        ("metaspace", "<s>", "<s>"),
    ],
)
def test_a_token_is_spelled_by_itself(name: str, token: str, spelled: str) -> None:
    tokenizer = TOKENIZERS[name]
    detokenizer = Detokenizer(tokenizer)
    for _ in range(2):  # at the start as behind it
        assert detokenizer.spell(tokenizer.backend.token_to_id(token)) == spelled
        detokenizer.push(tokenizer.encode("the"))


def test_an_unknown_token_is_spelled_as_nothing() -> None:
    assert Detokenizer(TOKENIZERS["llama"]).spell(10**6) == ""


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece", "prefix": "##", "cleanup": True}])
def test_other_decoders_are_refused_by_name(decoder: dict[str, object] | None) -> None:
    content = json.loads(byte_level().backend.to_str()) | {"decoder": decoder}
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    with pytest.raises(StartupError, match="WordPiece" if decoder else "joining with spaces"):
        Tokenizer(backend)


def test_a_stop_string_in_a_run_of_bytes_is_found_when_it_is_complete() -> None:
    tokenizer = TOKENIZERS["llama"]
    output = OutputText(tokenizer, SamplingParams(stop=["\n\n"]))
    ids = [tokenizer.backend.token_to_id(token) for token in ("fox", *["<0x0A>"] * 9)]
    assert output.push(ids) == "fox"
    assert output.num_tokens == 3
