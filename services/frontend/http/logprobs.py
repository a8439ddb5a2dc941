"""Log-probabilities as OpenAI's completions API has them: lists over tokens, with the tokens spelled out."""

import math
from typing import Any

from quire.engine.api.completion import Completion
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.text.detokenizer import Detokenizer
from quire.engine.text.tokenizer import Tokenizer

# JSON has no infinity and no NaN.
_LOWEST = -9999.0


class ChoiceLogprobs:
    """Log-probabilities of one choice, piece by piece.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._length = 0

    def of(self, piece: Completion) -> dict[str, Any] | None:
        """Lists with an entry for each of the piece's tokens; None if it has none.

        text_offset is where a token's text begins, in characters of the answer as if none were held back; of a token
        that goes on with a character, where that character begins.
        """
        if not piece.token_ids:
            return None
        spelled = [self._detokenizer.spell(token_id) for token_id in piece.token_ids]
        return {
            "tokens": spelled,
            "token_logprobs": [finite(each.logprob) for each in piece.logprobs],
            "top_logprobs": [self._top(*pair) for pair in zip(spelled, piece.logprobs, strict=True)],
            "text_offset": [self._offset(token_id) for token_id in piece.token_ids],
        }

    def _top(self, spelled: str, logprobs: TokenLogprobs) -> dict[str, float]:
        """The most likely tokens and the sampled one; of tokens that are spelled alike, the most likely."""
        found: dict[str, float] = {}
        for token_id, logprob in zip(logprobs.top_token_ids, logprobs.top_logprobs, strict=True):
            found.setdefault(self._detokenizer.spell(token_id), finite(logprob))
        found.setdefault(spelled, finite(logprobs.logprob))
        return found

    def _offset(self, token_id: int) -> int:
        begin = self._length + self._detokenizer.breaks(token_id)
        self._length += len(self._detokenizer.push((token_id,)))
        return begin


def finite(logprob: float) -> float:
    """A log-probability as a number that JSON has."""
    return logprob if math.isfinite(logprob) else _LOWEST
