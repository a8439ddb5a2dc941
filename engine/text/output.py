"""One sequence's text as its tokens come: detokenizer and stop strings joined."""

from collections.abc import Sequence
from typing import Final

from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.text.detokenizer import Detokenizer
from quire.engine.text.stop import StopMatcher
from quire.engine.text.tokenizer import Tokenizer

_DEFAULTS: Final = SamplingParams()


class OutputText:
    """Token ids in, text deltas out.

    Args:
        tokenizer: the model's.
        params: its stop strings end the text; what its first `min_tokens` say is not compared with them.

    Attributes:
        num_tokens: tokens taken; after a match, those up to and including the one that completed it.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams = _DEFAULTS) -> None:
        self._detokenizer = Detokenizer(tokenizer, params.skip_special_tokens)
        self._matcher = StopMatcher(params.stop, params.include_stop_str_in_output)
        self._has_stops = bool(params.stop)
        self._min_tokens = params.min_tokens
        self.num_tokens = 0

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text: cancel the sequence; tokens that still come are ignored."""
        return self._matcher.matched

    def push(self, token_ids: Sequence[int] | Int32Array) -> str:
        """The text that these tokens release."""
        if not self._has_stops:
            self.num_tokens += len(token_ids)
            return self._detokenizer.push(token_ids)
        parts = []
        for token_id in token_ids:
            if self.matched is not None:
                break
            text = self._detokenizer.push((int(token_id),))
            parts.append(text if self.num_tokens < self._min_tokens else self._matcher.push(text))
            self.num_tokens += 1
        return "".join(parts)

    def finish(self, token_ids: Sequence[int] | Int32Array = (), *, by_stop_token: bool = False) -> str:
        """The last tokens and the rest of the text. Call once.

        Args:
            token_ids: the tokens that came with the end.
            by_stop_token: the last of them ended the sequence: it counts as a token but makes no text.
        """
        text = self.push(token_ids[:-1] if by_stop_token else token_ids)
        if self.matched is not None:
            return text
        self.num_tokens += by_stop_token
        text += self._matcher.push(self._detokenizer.flush())
        return text + self._matcher.flush()
