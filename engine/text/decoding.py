"""Tokens to text as they come, one rule for each kind of decoder that `tokenizer.json` files have.

Comparing the decoded texts of a growing window would not give the same text however the tokens are cut, if their bytes
are broken. So each kind has the state that its rule needs, and a token costs the same wherever it stands.

    ByteLevel      Tokens are bytes and the text is their UTF-8; held back is an unfinished character, at most
                   three bytes.
    ByteFallback,  Tokens are text, and what starts the text loses its leading space. A run of byte tokens is
    Metaspace      decoded as ByteLevel's bytes are: every complete character leaves at once.

The text differs from the `tokenizers` library's only where a run of byte tokens is not all UTF-8: the library makes one
U+FFFD of every byte of such a run, whole characters among them, so that none can leave before the run ends. Here one
U+FFFD stands for each maximal broken part.
"""

import codecs
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Protocol

import tokenizers
from tokenizers.decoders import Decoder

from quire.engine.api.errors import StartupError
from quire.engine.text.byte_tokens import BYTE_LEVEL, byte_of

_BYTE_LEVEL = ("ByteLevel",)
_PIECES = frozenset({
    ("Metaspace",),
    ("Replace", "Fuse"),
    ("Replace", "Fuse", "Strip"),
    ("Replace", "ByteFallback", "Fuse"),
    ("Replace", "ByteFallback", "Fuse", "Strip"),
})  # fmt: skip
# Stands in front of a piece so that it is not taken for the start of the text.
_ANCHOR = "a"


class Decoding(Protocol):
    """The text of one sequence of tokens, given as the vocabulary spells them."""

    def push(self, tokens: Iterable[str]) -> str:
        """What the tokens add: whole characters only."""
        ...

    def flush(self) -> str:
        """The rest, at the end: a character that stayed incomplete is U+FFFD."""
        ...

    def breaks(self, token: str) -> bool:
        """Whether a character is incomplete that this token, coming next, would not go on with."""
        ...

    def spell(self, token: str) -> str | bytes:
        """The token's own text, wherever it stands; bytes if it need not be text."""
        ...


def start_decoding(backend: tokenizers.Tokenizer) -> Decoding:
    """For a new sequence.

    Raises:
        StartupError: the tokenizer decodes in a way that has no form here.
    """
    steps = tuple(_leaf_types(json.loads(backend.decoder.__getstate__()))) if backend.decoder else ()
    if steps == _BYTE_LEVEL:
        return _ByteLevel()
    if steps in _PIECES:
        return _Pieces(backend.decoder, "ByteFallback" in steps)
    raise StartupError(
        f"tokenizer.json decodes by {' + '.join(steps) or 'joining with spaces'}; "
        "Quire can stream ByteLevel, Metaspace, and Replace + ByteFallback + Fuse (+ Strip)"
    )


def _leaf_types(state: dict[str, Any]) -> Iterator[str]:
    # A decoder's pickle state is the only place where the library shows the parts of a sequence; it is JSON.
    if state["type"] != "Sequence":
        yield state["type"]
    for part in state.get("decoders") or ():
        yield from _leaf_types(part)


class _Utf8:
    """Bytes to whole characters.

    Attributes:
        is_incomplete: bytes of a character are held back.
    """

    def __init__(self) -> None:
        self.is_incomplete = False
        # "replace" makes one U+FFFD of each maximal broken part, as Rust's lossy conversion does.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        if not self.is_incomplete:
            # Nearly always whole characters come to whole characters, and this is far quicker.
            try:
                return data.decode()
            except UnicodeDecodeError:
                pass
        text = self._decoder.decode(data)
        self.is_incomplete = self._decoder.getstate()[0] != b""
        return text

    def flush(self) -> str:
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self.is_incomplete = False
        return text

    def breaks(self, data: bytes) -> bool:
        """Whether an incomplete character is not gone on with by these bytes."""
        incomplete, _ = self._decoder.getstate()
        return len((incomplete + data[:1]).decode(errors="replace")) > 1


class _ByteLevel:
    def __init__(self) -> None:
        self._utf8 = _Utf8()

    def push(self, tokens: Iterable[str]) -> str:
        return self._utf8.push(b"".join(map(_byte_level, tokens)))

    def flush(self) -> str:
        return self._utf8.flush()

    def breaks(self, token: str) -> bool:
        return self._utf8.breaks(self.spell(token))

    def spell(self, token: str) -> bytes:
        return _byte_level(token)


# More than vocabularies have, so that each token is looked at once.
@lru_cache(1 << 19)
def _byte_level(token: str) -> bytes:
    """The bytes of a token."""
    try:
        return bytes(BYTE_LEVEL[char] for char in token)
    except KeyError:  # a token added as plain text
        return token.encode()


class _Pieces:
    def __init__(self, decoder: Decoder, joins_bytes: bool) -> None:
        self._decoder = decoder
        self._joins_bytes = joins_bytes
        self._utf8 = _Utf8()
        self._at_start = True

    def push(self, tokens: Iterable[str]) -> str:
        return "".join(map(self._push, tokens))

    def _push(self, token: str) -> str:
        if (data := self._bytes_of(token)) is not None:
            return self._from_bytes(self._utf8.push(data))
        return self.flush() + self._decode([token])

    def flush(self) -> str:
        return self._from_bytes(self._utf8.flush())

    def breaks(self, token: str) -> bool:
        data = self._bytes_of(token)
        return self._utf8.is_incomplete if data is None else self._utf8.breaks(data)

    def spell(self, token: str) -> str | bytes:
        data = self._bytes_of(token)
        return self._inside([token]) if data is None else data

    def _bytes_of(self, token: str) -> bytes | None:
        byte = byte_of(token) if self._joins_bytes else None
        return None if byte is None else bytes((byte,))

    def _from_bytes(self, text: str) -> str:
        # Only at the start does the decoder change it.
        return self._decode([f"<0x{byte:02X}>" for byte in text.encode()]) if text and self._at_start else text

    def _inside(self, tokens: list[str]) -> str:
        """Their text, were it not the start."""
        text: str = self._decoder.decode([_ANCHOR, *tokens])[len(_ANCHOR) :]
        return text

    def _decode(self, tokens: list[str]) -> str:
        text = self._inside(tokens)
        if self._at_start and text:
            self._at_start = False
            text = self._decoder.decode(tokens)
        return text
