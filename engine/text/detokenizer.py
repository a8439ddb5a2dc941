"""Token ids to text as they come: the pieces add up to the same text however the ids are cut."""

from collections.abc import Sequence

from quire.engine.arrays import Int32Array
from quire.engine.text.decoding import start_decoding
from quire.engine.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one sequence.

    Args:
        tokenizer: the model's.
        skip_special_tokens: they make no text.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoding = start_decoding(tokenizer.backend)

    def push(self, token_ids: Sequence[int] | Int32Array) -> str:
        """What these tokens add: whole characters only."""
        return self._decoding.push(token for token in map(self._token, token_ids) if token is not None)

    def flush(self) -> str:
        """The rest, at the end: a character that stayed incomplete is U+FFFD."""
        return self._decoding.flush()

    def breaks(self, token_id: int) -> bool:
        """Whether a character is incomplete that this token, coming next, would not go on with."""
        token = self._token(token_id)
        return token is not None and self._decoding.breaks(token)

    def spell_bytes(self, token_id: int) -> bytes:
        """The bytes of one token by itself; special tokens are spelled out."""
        token = self._tokenizer.token(token_id)
        if token is None:
            return (self._tokenizer.backend.id_to_token(token_id) or "").encode()
        spelled = self._decoding.spell(token)
        return spelled.encode() if isinstance(spelled, str) else spelled

    def spell(self, token_id: int) -> str:
        """One token by itself, wherever it stands, in OpenAI's way: of bytes that are no text "bytes:\\xe2\\x82".

        Special tokens are spelled out; an id that the tokenizer does not know is "".
        """
        token = self._tokenizer.token(token_id)
        if token is None:
            return self._tokenizer.backend.id_to_token(token_id) or ""
        spelled = self._decoding.spell(token)
        if isinstance(spelled, str):
            return spelled
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)

    def _token(self, token_id: int) -> str | None:
        return self._tokenizer.token(token_id, self._skip_special_tokens)
