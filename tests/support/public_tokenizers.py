"""Tokenizers of public models, made small: each has the steps of its `tokenizer.json`, trained on a few lines.

The vocabularies are not those of the models. What a file's steps do to a text does not depend on them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer
from tokenizers.processors import PostProcessor

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "def push(self, ids):\n        return ids[0:128]  # 3,141",
    "Füße über Öl, naïve café; 中文字符 и кириллица",
    "    indented\n\n\t\ttabs and the   spaces",
] * 4
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = pre_tokenizers.ByteLevel.alphabet()

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(
    *before: PreTokenizer,
    special: Sequence[str] = ("<|endoftext|>",),
    after: Sequence[PreTokenizer] = (),
    normalizer: Normalizer | None = None,
    post: PostProcessor | None = None,
    use_regex: bool = True,
    ignore_merges: bool = False,
    added: Sequence[AddedToken] = (),
) -> tokenizers.Tokenizer:
    """GPT-2's kind: text is split, and its bytes are spelled as characters."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, level, *after]) if before or after else level
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(special), initial_alphabet=ALPHABET, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = post or processors.ByteLevel(trim_offsets=False)
    backend.add_tokens(list(added))
    return backend


def sentencepiece(
    normalizer: Normalizer | None,
    pre: PreTokenizer | None = None,
    *,
    special: Sequence[str] = ("<unk>", "<s>", "</s>"),
    begin: str | None = "<s>",
    strips: bool = True,
    added: Sequence[AddedToken] = (),
) -> tokenizers.Tokenizer:
    """Llama 2's kind: pieces of text, and a token for each byte of a character that is in none."""
    trained = tokenizers.Tokenizer(models.BPE(unk_token=special[0], fuse_unk=True, byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=460, special_tokens=[*special, *BYTE_TOKENS], initial_alphabet=["▁"], show_progress=False
    )
    trained.train_from_iterator(CORPUS[:1] * 4, trainer)
    # Byte tokens are part of the vocabulary, not added tokens.
    content = json.loads(trained.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    content["pre_tokenizer"] = None
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre is not None:
        backend.pre_tokenizer = pre
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)
    backend.post_processor = around(backend, begin)
    backend.add_tokens(list(added))
    return backend


def unigram(pre: PreTokenizer, decoder: decoders.Decoder, begin: str | None) -> tokenizers.Tokenizer:
    """T5's kind: the likeliest pieces. Their files hold sentencepiece's rules as a table; these here are most of it."""
    backend = tokenizers.Tokenizer(models.Unigram())
    steps = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer, backend.decoder = pre, decoder
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False, max_piece_length=8
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = around(backend, begin, "</s>")
    return backend


def word_piece() -> tokenizers.Tokenizer:
    """BERT's kind, which loses spaces."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    backend.post_processor = around(backend, "[CLS]", "[SEP]")
    return backend


def around(backend: tokenizers.Tokenizer, begin: str | None, end: str | None = None) -> PostProcessor:
    """Special tokens in front of a text and behind it."""
    tokens = [token for token in (begin, end) if token]
    template = " ".join(part for part in (begin, "$A", end) if part)
    return processors.TemplateProcessing(
        single=template, special_tokens=[(token, backend.token_to_id(token)) for token in tokens]
    )


def begins(build: Callable[[], tokenizers.Tokenizer], begin: str) -> tokenizers.Tokenizer:
    """A byte-level one with a token in front."""
    backend = build()
    steps = [processors.ByteLevel(trim_offsets=False), around(backend, begin)]
    backend.post_processor = processors.Sequence(steps)
    return backend


def split(pattern: str, behavior: str = "isolated") -> PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior)


def prefixed() -> Normalizer:
    """Spaces as Llama 2's file writes them."""
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def plain(*contents: str) -> list[AddedToken]:
    """Runs of white space that are tokens of their own."""
    return [AddedToken(content, normalized=True, special=False) for content in contents]


def controls(*contents: str, rstrip: bool = False) -> list[AddedToken]:
    return [AddedToken(content, normalized=False, special=True, rstrip=rstrip) for content in contents]


@dataclass(frozen=True, slots=True)
class PublicTokenizer:
    """One kind.

    Attributes:
        build: makes it.
        class_name: `tokenizer_class` of its `tokenizer_config.json`.
        named: its special tokens there.
        has_bound: a text's bytes tell how many tokens it makes at least.
    """

    build: Callable[[], tokenizers.Tokenizer]
    class_name: str = "PreTrainedTokenizerFast"
    named: dict[str, Any] = field(default_factory=dict)
    has_bound: bool = True

    def write(self, folder: Path) -> Path:
        """As a model's folder has it; returns the folder."""
        backend = self.build()
        backend.save(str(folder / "tokenizer.json"))
        listed = {
            str(token_id): {
                "content": token.content,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": token.normalized,
                "single_word": token.single_word,
                "special": token.special,
            }
            for token_id, token in backend.get_added_tokens_decoder().items()
        }
        config = {"tokenizer_class": self.class_name, "added_tokens_decoder": listed, **self.named}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder


END = {"eos_token": "<|endoftext|>"}
BOTH = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LLAMA2 = BOTH | {"add_bos_token": True, "add_eos_token": False, "legacy": False}
HEADERS = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>")
COHERE = ("<PAD>", "<UNK>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>")
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>")

PUBLIC = {
    "gpt-2": PublicTokenizer(byte_level, "GPT2Tokenizer", END | {"add_prefix_space": False}),
    "opt": PublicTokenizer(
        lambda: begins(lambda: byte_level(special=["<pad>", "</s>", "<unk>"]), "</s>"),
        "GPT2Tokenizer",
        {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"},
    ),
    "llama-2": PublicTokenizer(lambda: sentencepiece(prefixed()), "LlamaTokenizer", LLAMA2),
    "llama-3": PublicTokenizer(
        lambda: begins(
            lambda: byte_level(split(LLAMA3), special=HEADERS, use_regex=False, ignore_merges=True), HEADERS[0]
        ),
        named={"bos_token": HEADERS[0], "eos_token": HEADERS[2]},
    ),
    "code-llama": PublicTokenizer(
        lambda: sentencepiece(prefixed(), added=controls("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")),
        "CodeLlamaTokenizer",
        BOTH | {"prefix_token": "▁<PRE>", "suffix_token": "▁<SUF>", "middle_token": "▁<MID>", "eot_token": "▁<EOT>"},
    ),
    "mistral-v0.1": PublicTokenizer(lambda: sentencepiece(prefixed()), "LlamaTokenizer", BOTH | {"legacy": True}),
    "mistral-v0.3": PublicTokenizer(
        lambda: sentencepiece(
            None,
            pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
            special=["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"],
        ),
        "LlamaTokenizer",
        BOTH,
    ),
    "mistral-tekken": PublicTokenizer(
        lambda: begins(
            lambda: byte_level(split(TEKKEN), special=["<unk>", "<s>", "</s>", "[INST]"], use_regex=False), "<s>"
        ),
        named=BOTH,
    ),
    "mixtral": PublicTokenizer(lambda: sentencepiece(prefixed()), "LlamaTokenizerFast", LLAMA2),
    "phi-3": PublicTokenizer(
        lambda: sentencepiece(
            prefixed(), begin=None, added=controls("<|user|>", "<|assistant|>", "<|end|>", rstrip=True)
        ),
        "LlamaTokenizer",
        BOTH | {"add_bos_token": False, "pad_token": "</s>"},
    ),
    "yi": PublicTokenizer(
        lambda: sentencepiece(normalizers.Replace(" ", "▁"), begin=None, strips=False),
        "LlamaTokenizer",
        BOTH | {"add_bos_token": False, "add_prefix_space": False},
    ),
    "gemma": PublicTokenizer(
        lambda: sentencepiece(
            normalizers.Replace(" ", "▁"),
            pre_tokenizers.Split(" ", "merged_with_previous"),
            special=[GEMMA[3], *GEMMA[:3], "<start_of_turn>"],
            begin="<bos>",
            strips=False,
            added=plain("\n\n", "\t\t", "▁▁", "▁▁▁▁"),
        ),
        "GemmaTokenizer",
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
    ),
    "qwen-2": PublicTokenizer(
        lambda: byte_level(
            split(QWEN2),
            special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            normalizer=normalizers.NFC(),
            use_regex=False,
        ),
        "Qwen2Tokenizer",
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None},
    ),
    "deepseek-v3": PublicTokenizer(
        lambda: begins(
            lambda: byte_level(
                split(r"\p{N}{1,3}"),
                split("[一-龥\u3040-ゟ゠-ヿ]+"),
                split(DEEPSEEK_V3),
                special=DEEPSEEK,
                normalizer=normalizers.Sequence([]),
                use_regex=False,
            ),
            DEEPSEEK[0],
        ),
        "LlamaTokenizerFast",
        {
            "bos_token": {"__type": "AddedToken", "content": DEEPSEEK[0], "normalized": True},
            "eos_token": {"__type": "AddedToken", "content": DEEPSEEK[1], "normalized": True},
        },
    ),
    "deepseek-coder": PublicTokenizer(
        lambda: begins(
            lambda: byte_level(
                split("[\r\n]"),
                split(r"\s?\p{L}+"),
                split(r"\s?\p{P}+"),
                split("[一-龥ࠀ-一가-\ud7ff]+"),
                pre_tokenizers.Digits(individual_digits=True),
                special=DEEPSEEK,
                normalizer=normalizers.Sequence([]),
                use_regex=False,
            ),
            DEEPSEEK[0],
        ),
        "LlamaTokenizerFast",
        {"bos_token": DEEPSEEK[0], "eos_token": DEEPSEEK[1]},
    ),
    "falcon": PublicTokenizer(
        lambda: byte_level(
            pre_tokenizers.Punctuation("contiguous"),
            special=[">>TITLE<<", ">>ABSTRACT<<", "<|endoftext|>"],
            after=[pre_tokenizers.Digits(individual_digits=False), split("[0-9][0-9][0-9]")],
        ),
        named=END,
    ),
    "bloom": PublicTokenizer(
        lambda: byte_level(
            split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), special=["<unk>", "<s>", "</s>", "<pad>"], use_regex=False
        ),
        "BloomTokenizer",
        BOTH | {"pad_token": "<pad>"},
    ),
    "gpt-neox": PublicTokenizer(
        lambda: byte_level(
            special=["<|endoftext|>", "<|padding|>"],
            normalizer=normalizers.NFC(),
            added=plain(*(" " * size for size in range(24, 1, -1))),
        ),
        "GPTNeoXTokenizer",
        END,
    ),
    "starcoder": PublicTokenizer(
        lambda: byte_level(
            pre_tokenizers.Digits(individual_digits=True), special=["<|endoftext|>", "<fim_prefix>", "<fim_suffix>"]
        ),
        "GPT2Tokenizer",
        END,
    ),
    "command-r": PublicTokenizer(
        lambda: begins(
            lambda: byte_level(
                pre_tokenizers.Digits(individual_digits=True), special=COHERE, normalizer=normalizers.NFC()
            ),
            "<BOS_TOKEN>",
        ),
        "CohereTokenizer",
        {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"},
    ),
    "gpt-4": PublicTokenizer(
        lambda: byte_level(split(LLAMA3.replace(r"\s*[\r\n]+", r"\s*[\r\n]")), use_regex=False), "GPT2Tokenizer", END
    ),
    "t5": PublicTokenizer(
        lambda: unigram(pre_tokenizers.Metaspace(), decoders.Metaspace(), None),
        "T5Tokenizer",
        {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
        has_bound=False,
    ),
    "xlm-r": PublicTokenizer(
        lambda: unigram(
            pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
            decoders.Metaspace(),
            "<s>",
        ),
        "XLMRobertaTokenizer",
        BOTH | {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"},
        has_bound=False,
    ),
}
