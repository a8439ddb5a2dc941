"""Log-probabilities as OpenAI's completions API has them: lists over tokens, with the tokens spelled out."""

import math
from collections.abc import Sequence
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
        echo: text of the choice before the first token's.
    """

    def __init__(self, tokenizer: Tokenizer, echo: str = "") -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._echo = echo
        self._length = len(echo)

    def of(self, piece: Completion, echoed: Sequence[int] = ()) -> dict[str, Any] | None:
        """Lists with an entry for each of the piece's tokens; None if it has none.

        text_offset is where a token's text begins, in characters of the answer as if none were held back; of a token
        that goes on with a character, where that character begins.

        Args:
            echoed: the prompt's tokens, if they come before; nothing is known of how likely the first one is.
        """
        found = self._of(piece.token_ids, piece.logprobs) if piece.token_ids else None
        return _joined(self._of_echo(echoed, piece.prompt_logprobs), found) if echoed else found

    def _of_echo(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        offsets = _echo_offsets(token_ids, self._echo, self._tokenizer)
        unknown: dict[str, list[Any]] = {
            "tokens": [self._detokenizer.spell(token_ids[0])],
            "token_logprobs": [None],
            "top_logprobs": [None],
            "text_offset": offsets[:1],
        }
        return _joined(unknown, self._lists(token_ids[1:], logprobs, offsets[1:]))

    def _of(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        return self._lists(token_ids, logprobs, [self._offset(token_id) for token_id in token_ids])

    def _lists(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs], offsets: list[int]) -> dict[str, Any]:
        spelled = [self._detokenizer.spell(token_id) for token_id in token_ids]
        return {
            "tokens": spelled,
            "token_logprobs": [finite(each.logprob) for each in logprobs],
            "top_logprobs": [self._top(*pair) for pair in zip(spelled, logprobs, strict=True)],
            "text_offset": offsets,
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


def _echo_offsets(token_ids: Sequence[int], text: str, tokenizer: Tokenizer) -> list[int]:
    """Where each token of a prompt begins in its text; special tokens that the text has not take no room there."""
    detokenizer, length, offsets = Detokenizer(tokenizer), 0, []
    for token_id in token_ids:
        offsets.append(length + detokenizer.breaks(token_id))
        token = tokenizer.token(token_id, skip_special_tokens=False)
        if token not in tokenizer.special_tokens:
            length += len(detokenizer.push((token_id,)))
        elif text.startswith(token, length):
            length += len(token)
    return offsets


def prompt_logprobs_json(
    token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs], tokenizer: Tokenizer
) -> list[dict[str, Any] | None]:
    """vLLM's form: for each token of the prompt an object by token id, with the most likely; null for the first."""
    detokenizer = Detokenizer(tokenizer)

    def entry(token_id: int, logprob: float, rank: int | None) -> dict[str, Any]:
        return {"logprob": finite(logprob), "rank": rank, "decoded_token": detokenizer.spell(token_id)}

    found: list[dict[str, Any] | None] = [None]
    for token_id, each in zip(token_ids[1:], logprobs, strict=True):
        top = zip(each.top_token_ids, each.top_logprobs, strict=True)
        ranked = {str(other): entry(other, logprob, rank) for rank, (other, logprob) in enumerate(top, start=1)}
        found.append({str(token_id): entry(token_id, each.logprob, each.rank), **ranked})
    return found


def _joined(left: dict[str, list[Any]], right: dict[str, list[Any]] | None) -> dict[str, Any]:
    return left if right is None else {name: left[name] + right[name] for name in left}


def finite(logprob: float) -> float:
    """A log-probability as a number that JSON has."""
    return logprob if math.isfinite(logprob) else _LOWEST
