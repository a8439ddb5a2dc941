"""The `Vocabulary`: what each token adds to a text, in bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

from quire.engine.text.decoding import start_decoding
from quire.engine.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What grammars need to know of a model and its tokenizer.

    Attributes:
        tokens: by id, the bytes that the token adds wherever it stands; b"" of those that no grammar allows: special
            tokens, and ids that only the model has.
        end_tokens: ids of the tokens that end a sequence.
    """

    tokens: tuple[bytes, ...]
    end_tokens: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int, end_tokens: Sequence[int]) -> "Vocabulary":
        """
        Args:
            vocab_size: the model's, which may be larger or smaller than the tokenizer's.
        """
        decoding = start_decoding(tokenizer.backend)
        tokens = []
        for token_id in range(vocab_size):
            token = None if token_id in end_tokens else tokenizer.token(token_id)
            spelled = b"" if token is None else decoding.spell(token)
            tokens.append(spelled.encode() if isinstance(spelled, str) else spelled)
        return cls(tuple(tokens), tuple(end_tokens))
