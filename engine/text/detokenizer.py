"""Token ids to text as they come: the pieces add up to the same text however the ids are cut.

Comparing the decoded texts of a growing window does not give that for broken input. So each of the two kinds
of decoder gets the state that its rule needs, and a token costs the same wherever in the sequence it stands.

    ByteLevel      Tokens are bytes and the text is their UTF-8; held back is an unfinished character, at most
                   three bytes.
    ByteFallback,  Tokens are text, and what starts the text loses its leading space. A run of byte tokens is
    Metaspace      decoded as ByteLevel's bytes are: every complete character leaves at once.

The text differs from `Tokenizer.decode`, which is the library's, only where a run of byte tokens is not all UTF-8: the
library makes one U+FFFD of every byte of such a run, whole characters among them, so that none can leave before the
run ends. Here one U+FFFD stands for each maximal broken part.
"""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from quire.engine.api.errors import StartupError
from quire.engine.arrays import Int32Array
from quire.engine.text.byte_tokens import BYTE_LEVEL, byte_of
from quire.engine.text.tokenizer import Tokenizer

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


class _State(Protocol):
    def push(self, token: str) -> str: ...

    def flush(self) -> str: ...

    def spell(self, token: str) -> str | bytes: ...


class Detokenizer:
    """The text of one sequence.

    Raises:
        StartupError: the tokenizer decodes in a way that has no incremental form here.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._state: _State
        if tokenizer.decoders == _BYTE_LEVEL:
            self._state = _ByteLevel()
        elif tokenizer.decoders in _PIECES:
            self._state = _Pieces(tokenizer)
        else:
            raise StartupError(
                f"tokenizer.json decodes by {' + '.join(tokenizer.decoders) or 'joining with spaces'}; "
                "Quire can stream ByteLevel, Metaspace, and Replace + ByteFallback + Fuse (+ Strip)"
            )

    def push(self, token_ids: Sequence[int] | Int32Array) -> str:
        """What these tokens add: whole characters only."""
        tokens = (self._tokenizer.token(int(token_id)) for token_id in token_ids)
        return "".join(self._state.push(token) for token in tokens if token is not None)

    def flush(self) -> str:
        """The rest, at the end: a character that stayed incomplete is U+FFFD."""
        return self._state.flush()

    def spell(self, token_id: int) -> str:
        """One token by itself, wherever it stands, in OpenAI's way: of bytes that are no text "bytes:\\xe2\\x82".

        Special tokens are spelled out; an id that the tokenizer does not know is "".
        """
        token = self._tokenizer.token(token_id)
        if token is None:
            return self._tokenizer.backend.id_to_token(token_id) or ""
        spelled = self._state.spell(token)
        if isinstance(spelled, str):
            return spelled
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def load_tokenizer(folder: Path) -> Tokenizer:
    """That of a folder, if its tokens can be turned into text as they come.

    Raises:
        StartupError: there is none, it cannot be read, or it decodes in another way.
    """
    tokenizer = Tokenizer.load(folder)
    Detokenizer(tokenizer)
    return tokenizer


class _ByteLevel:
    def __init__(self) -> None:
        # "replace" makes one U+FFFD of each maximal broken part, as Rust's lossy conversion does.
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> str:
        return self._utf8.decode(self.spell(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)

    def spell(self, token: str) -> bytes:
        try:
            return bytes(BYTE_LEVEL[char] for char in token)
        except KeyError:  # a token added as plain text
            return token.encode()


class _Pieces:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder = tokenizer.backend.decoder
        self._joins_bytes = "ByteFallback" in tokenizer.decoders
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True

    def push(self, token: str) -> str:
        if self._joins_bytes and (byte := byte_of(token)) is not None:
            return self._from_bytes(self._utf8.decode(bytes((byte,))))
        return self.flush() + self._decode([token])

    def flush(self) -> str:
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return self._from_bytes(text)

    def _from_bytes(self, text: str) -> str:
        # Only at the start does the decoder change it.
        return self._decode([f"<0x{byte:02X}>" for byte in text.encode()]) if text and self._at_start else text

    def spell(self, token: str) -> str | bytes:
        if self._joins_bytes and (byte := byte_of(token)) is not None:
            return bytes((byte,))
        return self._inside([token])

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
