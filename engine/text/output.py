"""One sequence's text as its tokens come: detokenizer and stop strings joined."""

from collections.abc import Sequence

from quire.engine.arrays import Int32Array
from quire.engine.text.detokenizer import Detokenizer
from quire.engine.text.stop import StopMatcher
from quire.engine.text.tokenizer import Tokenizer


class OutputText:
    """Token ids in, text deltas out.

    Args:
        tokenizer: the model's.
        stop: strings that end the text.

    Attributes:
        num_tokens: tokens taken; after a match, those up to and including the one that completed it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(stop)
        self._has_stops = bool(stop)
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
            parts.append(self._matcher.push(self._detokenizer.push((int(token_id),))))
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
