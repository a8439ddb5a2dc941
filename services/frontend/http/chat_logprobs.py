"""Log-probabilities as OpenAI's chat API has them: an object for each token, with its bytes."""

from typing import Any

from quire.engine.api.completion import Completion
from quire.engine.text.detokenizer import Detokenizer
from quire.engine.text.tokenizer import Tokenizer
from quire.services.frontend.http.logprobs import finite


class ChatLogprobs:
    """Writes the log-probabilities of any piece.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._detokenizer = Detokenizer(tokenizer)

    def of(self, piece: Completion) -> dict[str, Any] | None:
        """An object for each of the piece's tokens; None if it has none."""
        if not piece.token_ids:
            return None
        content = []
        for token_id, logprobs in zip(piece.token_ids, piece.logprobs, strict=True):
            top = zip(logprobs.top_token_ids, logprobs.top_logprobs, strict=True)
            content.append(
                {**self._token(token_id, logprobs.logprob), "top_logprobs": [self._token(*each) for each in top]}
            )
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._detokenizer.spell(token_id),
            "logprob": finite(logprob),
            "bytes": list(self._detokenizer.spell_bytes(token_id)),
        }
