"""Text to token ids and back, from a Hugging Face folder's `tokenizer.json` and nothing heavier.

`tokenizer.json` is the truth: text is normalized, split and decoded as it says, and what goes round a text is its own
post-processor, or nothing. `tokenizer_config.json` only names further special tokens, which are added. So the ids are
those of `transformers.AutoTokenizer` of version 5, but for its Llama class, which builds these steps anew: there " hi"
is "▁hi", where the file says "▁" and "▁hi".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken

from quire.engine.api.errors import InvalidRequest, StartupError
from quire.engine.arrays import Int32Array
from quire.engine.json_file import read_json_object
from quire.engine.text.decoding import start_decoding
from quire.engine.validation import check_length

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")


# Characters from which on a text is tokenized without the interpreter's lock: shorter ones take half a millisecond.
LONG_TEXT = 2_000


class Tokenizer:
    """One folder's tokenizer. Safe to share between threads and sequences.

    Attributes:
        backend: the `tokenizers` object behind it.
        special_tokens: as the vocabulary spells them.

    Raises:
        StartupError: its tokens cannot be turned into text as they come.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        start_decoding(backend)
        # Both can be stored in the file, and both would change or drop tokens without a word.
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        added = backend.get_added_tokens_decoder().values()
        self.special_tokens = frozenset(token.content for token in added if token.special)
        # The library makes a new string each time.
        self._spelled: dict[int, str] = {}

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Reads `tokenizer.json` and, where there is one, `tokenizer_config.json`.

        Raises:
            StartupError: a file is missing or cannot be read as what it should be, or its tokens cannot be turned
                into text as they come.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise StartupError(
                f"no tokenizer in {folder}: Quire needs its tokenizer.json (a Hugging Face fast tokenizer); "
                "a sentencepiece or tiktoken file alone is not enough"
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise StartupError(f"{path} is not a readable tokenizer: {error}") from error
        try:
            config = read_json_object(folder / "tokenizer_config.json", required=False)
        except StartupError as error:
            raise StartupError(f"tokenizer of {folder}: {error}") from error
        try:
            _add_special_tokens(backend, config)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StartupError(
                f"{folder / 'tokenizer_config.json'} must name each special token as text or as an object "
                f'with "content", and list added tokens by id: {error!r}'
            ) from error
        return cls(backend)

    @property
    def vocab_size(self) -> int:
        """Number of tokens with those added to the vocabulary; the model's own table may be larger."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(
        self,
        text: str,
        *,
        field: str = "text",
        max_model_len: int | None = None,
        add_special_tokens: bool = True,
    ) -> Int32Array:
        """Token ids of a text, int32, shape (num_tokens,).

        The interpreter's lock is released while a long text is tokenized.

        Args:
            field: the text's name in the API at hand, for refusals.
            max_model_len: the model's context, in which at least one token must fit behind the text's.
            add_special_tokens: with those that the folder asks for around a text; a chat template writes them itself.

        Raises:
            InvalidRequest: the text holds a lone surrogate, which is no character, or makes too many tokens.
        """
        utf8(text, field)
        # Only a batch is tokenized without the lock; waking its threads takes longer than a short text.
        if len(text) < LONG_TEXT:
            encoding = self.backend.encode(text, add_special_tokens=add_special_tokens)
        else:
            (encoding,) = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        if max_model_len is not None:
            check_length(field, len(encoding), max_model_len)
        return np.array(encoding.ids, dtype=np.int32)

    def mark(self, text: str) -> tuple[int, ...]:
        """Token ids of a mark within a text, such as "</think>", without special tokens around it."""
        return tuple(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int] | Int32Array) -> str:
        """The text of token ids, without special tokens and ids outside the vocabulary: as a stream of them has it.

        Spaces stay as they are: `clean_up_tokenization_spaces` is not applied.
        """
        decoding = start_decoding(self.backend)
        tokens = (token for token in map(self.token, token_ids) if token is not None)
        return decoding.push(tokens) + decoding.flush()

    def token(self, token_id: int, skip_special_tokens: bool = True) -> str | None:
        """The vocabulary's spelling of a token; None if it makes no text: it is unknown, or special and skipped."""
        token = self._spelled.get(token_id)
        if token is None:
            token = self.backend.id_to_token(int(token_id))
            if token is None:
                return None
            self._spelled[int(token_id)] = token
        return None if skip_special_tokens and token in self.special_tokens else token


def utf8(text: str, field: str) -> bytes:
    """Raises `InvalidRequest` if the text holds a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(field, text, "must be Unicode without lone surrogates") from error


def _add_special_tokens(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
    """Adds what `tokenizer_config.json` names beyond `tokenizer.json`: the listed, then the named tokens."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = config.get("added_tokens_decoder") or {}
    for _, token in sorted(listed.items(), key=lambda item: int(item[0])):
        if token["content"] not in known:
            backend.add_tokens([_added_token(token)])
    named = [config.get(name) for name in _NAMED_TOKENS]
    for name in _TOKEN_LISTS:
        more = config.get(name) or []
        if not isinstance(more, list | dict):
            raise TypeError(f"{name} must be a list or an object")
        named += more.values() if isinstance(more, dict) else more
    # A token named by its text alone keeps the flags that it has.
    flags = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for name in filter(None, named):
        token = flags.get(name) if isinstance(name, str) else None
        token = token or _added_token(name)
        token.special = True
        backend.add_special_tokens([token])


def _added_token(token: str | dict[str, Any]) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, normalized=False)
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(token["content"], **{name: bool(token.get(name, False)) for name in flags})
