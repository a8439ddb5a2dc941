"""The fewest tokens that a text can make, told from its bytes alone: what cannot fit need not be tokenized.

Each byte b weighs 1 / L(b), where L(b) is the length of the longest token that holds b. The bytes of one token then
weigh at most 1 together, so a text has at least as many tokens as its bytes weigh. This is sound as long as every
byte of the text ends up in some token. A tokenizer that may drop text, or may make one "unknown" token of text of any
length, has no bound; nor has one with a step that is not listed here.
"""

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken
from tokenizers.models import BPE
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from quire.engine.text.byte_tokens import BYTE_LEVEL

# Bytes that are weighed at once: numpy widens them eightfold.
_SLICE = 256 * 1024
# NFC makes at most one byte of three, as of U+1FEF (grave accent).
_NFC_SHRINKS = 3
_LATIN = {ord(char): chr(byte) for char, byte in BYTE_LEVEL.items()}
_WHITE_SPACE = sorted(set("".join(char for char in map(chr, range(0x3001)) if char.isspace()).encode()))
_Weights = NDArray[np.float64]


class TokenBound:
    """One tokenizer's.

    Args:
        backend: the tokenizer with all added tokens, without truncation.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        normalizing, splitting = list(_leaves(backend.normalizer)), list(_leaves(backend.pre_tokenizer))
        weights = _vocabulary_weights(backend, [*normalizing, *splitting])
        self._of_any = self._of_ascii = weights
        if not weights.any():
            return
        contents = [(token.content, token.lstrip or token.rstrip) for token in _added(backend)]
        _undo(splitting, weights, is_ascii=False)
        if backend.normalizer:
            _allow([(backend.normalizer.normalize_str(text), strips) for text, strips in contents], weights)
        self._of_ascii = weights.copy()
        _undo(normalizing, self._of_any, is_ascii=False)
        _undo(normalizing, self._of_ascii, is_ascii=True)
        # Most added tokens are found in the text as it was given.
        _allow(contents, self._of_any)
        _allow(contents, self._of_ascii)

    def fewest_tokens(self, data: bytes) -> int:
        """Of a text in UTF-8; 0 if there is no bound."""
        *_, fewest = 0, *self.count(data)
        return fewest

    def count(self, data: bytes) -> Iterator[int]:
        """The fewest tokens of the part that has been looked at, as that grows: each step takes a millisecond."""
        weights = self._of_ascii if data.isascii() else self._of_any
        total = 0.0
        for at in range(0, len(data), _SLICE):
            total += float(np.bincount(np.frombuffer(data[at : at + _SLICE], np.uint8), minlength=256) @ weights)
            # Sums of rounded fractions may come out a little too large.
            yield math.ceil(total * (1 - 1e-9))


def _leaves(step: Normalizer | PreTokenizer | None) -> Iterator[dict[str, Any]]:
    """The single steps of a normalizer or a pre-tokenizer, in order."""
    # Its pickle state is the only place where the library shows the parts of a sequence; it is JSON.
    return _walk(json.loads(step.__getstate__())) if step else iter(())


def _walk(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if state["type"] != "Sequence":
        yield state
    for part in state.get("normalizers") or state.get("pretokenizers") or ():
        yield from _walk(part)


def _added(backend: tokenizers.Tokenizer) -> Iterable[AddedToken]:
    return backend.get_added_tokens_decoder().values()


def _vocabulary_weights(backend: tokenizers.Tokenizer, steps: list[dict[str, Any]]) -> _Weights:
    """By byte of what the model is given, shape (256,); zeros if text may be lost on the way."""
    model = backend.model
    if not isinstance(model, BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return np.zeros(256)
    kinds = [step["type"] for step in steps]
    vocabulary = backend.get_vocab(with_added_tokens=False)
    if "ByteLevel" in kinds:
        # What comes behind it must not change text: it would take the bytes' spellings for text.
        keeps = set(kinds[kinds.index("ByteLevel") + 1 :]) <= {"Split", "Punctuation", "Digits"}
        keeps = keeps and vocabulary.keys() >= BYTE_LEVEL.keys()
        tokens = (token.translate(_LATIN).encode("latin-1", "replace") for token in vocabulary)
    else:
        keeps = model.byte_fallback and vocabulary.keys() >= {f"<0x{byte:02X}>" for byte in range(256)}
        tokens = (token.encode() for token in vocabulary)
    keeps = keeps and all(_keeps_text(step) for step in steps)
    return 1 / _longest(tokens) if keeps else np.zeros(256)


def _keeps_text(step: dict[str, Any]) -> bool:
    """Whether every byte of a text leaves something behind in what the step makes of it."""
    match step:
        case {"type": "Prepend" | "Digits" | "NFC" | "ByteLevel" | "Metaspace"}:
            return True
        case {"type": "Split" | "Punctuation", "behavior": behavior}:
            return bool(behavior != "Removed")
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": new}:
            return len(old.encode()) == 1 and new != ""
    return False


def _longest(tokens: Iterable[bytes]) -> _Weights:
    """By byte, the length of the longest token that holds it; a byte that none holds is a token of its own."""
    longest = np.ones(256)
    missing = set(range(256))
    for token in sorted(tokens, key=len, reverse=True):
        if not missing.isdisjoint(token):
            found = missing.intersection(token)
            longest[list(found)] = len(token)
            missing -= found
    return longest


def _undo(steps: list[dict[str, Any]], weights: _Weights, *, is_ascii: bool) -> None:
    """Makes weights of what goes into the steps from those of what comes out."""
    for step in reversed(steps):
        match step:
            case {"type": "NFC"} if not is_ascii:
                weights[:] = weights.min() / _NFC_SHRINKS
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                weights[ord(old)] = sum(weights[byte] for byte in new.encode())
            case {"type": "Metaspace", "replacement": str(new)}:
                weights[ord(" ")] = sum(weights[byte] for byte in new.encode())


def _allow(contents: list[tuple[str, bool]], weights: _Weights) -> None:
    """Makes room for added tokens, given with whether they take all white space beside them."""
    for text, _ in contents:
        content = list(text.encode())
        if content:
            weights[content] = np.minimum(weights[content], 1 / len(content))
    if any(strips for _, strips in contents):
        weights[_WHITE_SPACE] = 0
