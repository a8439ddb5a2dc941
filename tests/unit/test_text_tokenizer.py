"""`Tokenizer` against its file, which transformers keeps to, on folders of each class that Quire serves."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from quire.engine.api.errors import InvalidRequest, StartupError
from quire.engine.text.tokenizer import Tokenizer

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "def push(self, ids): return ids",
    "Füße über Öl, naïve",
] * 4
TEXTS = [
    "",
    " ",
    "hello the fox",
    "  two  spaces ",
    "Füße 中文 😀\n\ttab",
    "<s>the</s> fox<pad> <s> the",
    "a plain <pad> text",
    "a<|user|>b <|user|> c",
    "e\u0301 composed",
]
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def known_flags() -> tokenizers.Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([tokenizers.AddedToken("<pad>", lstrip=True, rstrip=True, special=True)])
    tokenizer.add_tokens([tokenizers.AddedToken("plain", lstrip=True, special=False)])
    return tokenizer


def qwen() -> tokenizers.Tokenizer:
    """As Qwen2 folders have it."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PRETOKENIZE_REGEX), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def llama() -> tokenizers.Tokenizer:
    """As old Llama folders have it: the spaces are a normalizer's work."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL + byte_tokens, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    # Byte tokens are part of the vocabulary, not added tokens.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write(folder: Path, tokenizer: tokenizers.Tokenizer, config: dict[str, Any], model_type: str | None) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if model_type is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
QWEN = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "</s>", "pad_token": "<|endoftext|>", "bos_token": None}
USER = {"content": "<|user|>", "special": True, "normalized": False}
# Folders list all added tokens, those of tokenizer.json among them.
LISTED = {
    str(index): {"content": content, "special": True, "normalized": False}
    for index, content in enumerate([*SPECIAL, "<|endoftext|>", "<|user|>"])
}
CASES: dict[str, tuple[Callable[[], tokenizers.Tokenizer], dict[str, Any], str | None]] = {
    "fast": (byte_level, FAST, "llama"),
    "fast-no-model-config": (byte_level, FAST, None),
    "fast-asks-bos-eos": (byte_level, FAST | {"add_bos_token": True, "add_eos_token": True}, "llama"),
    "fast-new-pad": (byte_level, FAST | {"pad_token": "<pad>"}, "mistral"),
    "fast-extra-specials": (byte_level, FAST | {"additional_special_tokens": ["<|user|>"]}, "llama"),
    "fast-special-as-object": (
        byte_level,
        FAST | {"pad_token": USER | {"__type": "AddedToken", "lstrip": True}},
        "llama",
    ),
    "fast-known-flags": (known_flags, FAST | {"pad_token": "<pad>"}, "llama"),
    "fast-made-special": (known_flags, FAST | {"pad_token": "plain"}, "llama"),
    "llama-byte-level": (byte_level, LLAMA, "llama"),
    "llama": (llama, LLAMA, "llama"),
    "llama-fast-name": (llama, LLAMA | {"tokenizer_class": "LlamaTokenizerFast"}, "llama"),
    "llama-legacy": (llama, LLAMA | {"legacy": True}, "llama"),
    "llama-no-prefix": (llama, LLAMA | {"add_prefix_space": False}, "llama"),
    "llama-asks-eos": (llama, LLAMA | {"add_bos_token": False, "add_eos_token": True}, "llama"),
    "llama-fast-class": (llama, FAST, "llama"),
    "llama-in-mistral": (llama, LLAMA, "mistral"),
    "qwen2": (qwen, QWEN | {"add_bos_token": True}, "qwen2"),
    "qwen3": (qwen, QWEN, "qwen3"),
    "qwen2-fast-class": (qwen, FAST, "qwen2"),
    "qwen2-listed": (qwen, QWEN | {"added_tokens_decoder": LISTED}, "qwen2"),
}

# transformers' Llama class builds the steps of these files anew.
REBUILT = {"llama", "llama-fast-name", "llama-legacy", "llama-no-prefix", "llama-asks-eos"}


@pytest.mark.parametrize("case", CASES)
def test_ids_and_text_are_those_of_the_file(case: str, tmp_path: Path) -> None:
    build, config, model_type = CASES[case]
    folder = write(tmp_path, build(), config, model_type)
    ours, reference = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    if case in REBUILT:
        reference = PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json"))
    assert ours.vocab_size == len(reference)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids.tolist() == reference(text)["input_ids"]
        assert ids.dtype == "int32"
        expected = reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == expected


def test_a_text_that_has_its_special_tokens_gets_no_others(tmp_path: Path) -> None:
    backend = byte_level()
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    tokenizer = Tokenizer.load(write(tmp_path, backend, FAST, None))
    for text in ("fox", "fox " * 1000):
        assert tokenizer.encode(text)[0] == bos
        written = tokenizer.encode("<s>" + text, add_special_tokens=False)
        assert written.tolist() == tokenizer.encode(text).tolist()


def test_truncation_and_padding_in_the_file_do_not_apply(tmp_path: Path) -> None:
    backend = byte_level()
    plain = backend.encode("the quick brown fox").ids
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    folder = write(tmp_path, backend, FAST, "llama")
    assert Tokenizer.load(folder).encode("the quick brown fox").tolist() == plain


def test_ids_outside_the_vocabulary_make_no_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, byte_level(), FAST, None))
    ids = tokenizer.encode("fox").tolist()
    assert tokenizer.decode([*ids, 100_000, 1]) == "fox"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=rf"no tokenizer in {tmp_path}.*tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_broken_file_is_named(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path, byte_level(), FAST, None)
    (folder / name).write_text("{")
    with pytest.raises(StartupError, match=name.replace(".", r"\.")):
        Tokenizer.load(folder)


def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, byte_level(), FAST, None)
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").mkdir()
    with pytest.raises(StartupError, match=rf"{folder}: tokenizer_config\.json cannot be read: Is a directory"):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    "odd",
    [
        {"pad_token": 5},
        {"pad_token": {"text": "x"}},
        {"added_tokens_decoder": ["x"]},
        {"extra_special_tokens": "abc"},
        {"added_tokens_decoder": {"one": {"content": "x"}}},
    ],
)
def test_odd_special_tokens_are_refused(odd: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"tokenizer_config\.json must name"):
        Tokenizer.load(write(tmp_path, byte_level(), FAST | odd, None))


def test_lone_surrogate_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, byte_level(), FAST, None))
    with pytest.raises(InvalidRequest, match="text: must be Unicode"):
        tokenizer.encode("a\ud800")


def test_text_and_client_come_without_torch() -> None:
    code = (
        "import sys, quire.engine.text.output, quire.engine.validation, quire.clients.generate, "
        "quire.clients.async_client, quire.services.common.utf8; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
