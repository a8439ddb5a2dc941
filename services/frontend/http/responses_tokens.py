"""The tokens of an answer of the Responses API: their texts one by one, and how many of them are reasoning."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from quire.engine.api.completion import Completion
from quire.engine.chat.reasoning import THINK_END
from quire.engine.text.detokenizer import Detokenizer
from quire.engine.text.tokenizer import Tokenizer
from quire.services.frontend.http.chat_logprobs import ChatLogprobs

_END = THINK_END.encode()


class TokenTexts:
    """Cuts the text of pieces at the borders of tokens, so that what is made of it is the same for any pieces.

    Args:
        tokenizer: the model's.
        skip_special_tokens: as the answer's text does.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._logprobs = ChatLogprobs(tokenizer)
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens)
        # Tokens whose text has not come, as characters and log-probability; and text that is of a part of a token.
        self._waiting: deque[tuple[int, Any]] = deque()
        self._text = ""

    def push(self, piece: Completion) -> Iterator[tuple[str, Any]]:
        """The text of each token that is complete, with its log-probability as JSON.

        Tokens behind a stop string have no text.
        """
        logprobs = self._logprobs.of(piece) or {"content": []}
        for token_id, logprob in zip(piece.token_ids, logprobs["content"], strict=True):
            self._waiting.append((len(self._detokenizer.push((token_id,))), logprob))
        text, at = self._text + piece.text, 0
        is_last = piece.finish_reason is not None
        while self._waiting and (is_last or at + self._waiting[0][0] <= len(text)):
            size, logprob = self._waiting.popleft()
            yield text[at : at + size], logprob
            at += size
        self._text = text[at:]

    def rest(self) -> str:
        """At the end: what no token completes, as of a character that is cut off."""
        return self._text


def count_reasoning(token_ids: Iterable[int], tokenizer: Tokenizer) -> int:
    """Tokens up to the one that ends the reasoning; all, where none does."""
    detokenizer = Detokenizer(tokenizer)
    count, last = 0, b""
    for token_id in token_ids:
        count += 1
        last = last[-len(_END) :] + detokenizer.spell_bytes(token_id)
        if _END in last:
            break
    return count
