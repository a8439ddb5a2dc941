"""A model that says what it is told to, whatever it is asked: for tests of what is made of a model's text.

Each hidden state is one-hot, attention and MLP add nothing, and the head maps each token to the one that follows it in
its script. Which script is said depends on the last byte of the prompt.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from quire.engine.text.byte_tokens import BYTE_LEVEL

END: Final = "</s>"
_ALPHABET: Final = {byte: char for char, byte in BYTE_LEVEL.items()}
# Sizes of pieces in turn, in bytes; some cut a character. One byte would be a token of prompts.
_SIZES: Final = (3, 2, 5, 2, 4)
_MULTIPLE: Final = 64
_THINK_END: Final = "</think>"
_LOGIT: Final = 20.0


def write_scripted_model(
    folder: Path, scripts: Mapping[str, str], template: str, special: Sequence[str] = (), max_model_len: int = 4096
) -> Path:
    """Writes the model with its tokenizer; returns the folder.

    Args:
        scripts: what to say behind a prompt that ends with this character, of ASCII.
        template: for chats.
        special: parts of scripts that are special tokens.
    """
    vocab = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab[END] = len(vocab)
    follows: dict[int, int] = {}
    for last, script in scripts.items():
        ids = [vocab[_ALPHABET[ord(last)]]]
        for piece in _cut(script, special, vocab):
            ids.append(vocab.setdefault(piece, len(vocab)))
        follows |= dict(pairwise([*ids, vocab[END]]))
    _write_tokenizer(folder, vocab, special, template)
    _write_weights(folder, len(vocab), follows, vocab[END], max_model_len)
    return folder


def _cut(script: str, special: Sequence[str], taken: Mapping[str, int]) -> list[str]:
    """The script in tokens, as the vocabulary spells them, none of which is there yet."""
    found: list[str] = []
    rest = script
    while rest:
        places = [(at, marker) for marker in special if (at := rest.find(marker)) >= 0]
        at, marker = min(places, default=(len(rest), ""))
        # No token goes across the end of reasoning, as structured output wants it.
        for part in re.split(rf"(?<={_THINK_END})", rest[:at]):
            found += _pieces(part.encode(), [*taken, *found])
        found += [marker] if marker else []
        rest = rest[at + len(marker) :]
    return found


def _pieces(data: bytes, taken: Sequence[str]) -> list[str]:
    found: list[str] = []
    while data:
        size = _SIZES[len(found) % len(_SIZES)]
        # One byte must not be left: it would be a token of prompts.
        while size < len(data) and (_spelled(data[:size]) in [*taken, *found] or len(data) - size < 2):
            size += 1
        piece = _spelled(data[:size])
        assert piece not in [*taken, *found], f"{piece!r} is there already: change the script"
        found.append(piece)
        data = data[size:]
    return found


def _spelled(data: bytes) -> str:
    return "".join(_ALPHABET[byte] for byte in data)


def _write_tokenizer(folder: Path, vocab: Mapping[str, int], special: Sequence[str], template: str) -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab=dict(vocab), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in (END, *special)])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"eos_token": END, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _write_weights(folder: Path, vocab_size: int, follows: Mapping[int, int], end: int, max_model_len: int) -> None:
    size = -(-vocab_size // _MULTIPLE) * _MULTIPLE
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=size, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=max_model_len, bos_token_id=None, eos_token_id=end,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(vocab_size, size))
        model.lm_head.weight.zero_()
        for token, following in follows.items():
            model.lm_head.weight[following, token] = _LOGIT
    model.save_pretrained(folder)
