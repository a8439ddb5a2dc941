"""Tokenizers small enough to know by heart."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from quire.engine.text.tokenizer import Tokenizer


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and "</s>"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend)
