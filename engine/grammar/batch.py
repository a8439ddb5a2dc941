"""The `MatcherBatch`: the texts of a step, followed at once."""

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import xgrammar
from numpy.typing import NDArray
from torch import Tensor

from quire.engine.grammar.matcher import TextMatcher

_BITS: Final = 32
# Seconds after which a batch is looked at text by text: one of them may take too long.
_SLOW_SECONDS: Final = 0.01
# Batches in which it is, before it is tried again.
_WATCHED: Final = 64


class MatcherBatch:
    """Takes in a token of each text, and says which may come next.

    Args:
        end_tokens: ids of the tokens that end a sequence.
        num_threads: of the host, that fill masks.
    """

    def __init__(self, vocab_size: int, end_tokens: Sequence[int], num_threads: int) -> None:
        self._filler = xgrammar.BatchGrammarMatcher(num_threads)
        self._end_mask = np.zeros(-(-vocab_size // _BITS), np.uint32)
        for token in end_tokens:
            self._end_mask[token // _BITS] |= np.uint32(1 << token % _BITS)
        self._num_watched = 0

    def accept(self, matchers: Sequence[TextMatcher], tokens: Sequence[int]) -> None:
        """A token of each; those of texts that are over change nothing."""
        both = [pair for pair in zip(matchers, tokens, strict=True) if not pair[0].is_over]
        if self._num_watched:
            for matcher, token in both:
                matcher.accept((token,))
        elif both:
            started = time.perf_counter()
            handles = [matcher.matcher for matcher, _ in both]
            accepted = self._filler.batch_accept_token(handles, [token for _, token in both])
            for (matcher, token), is_accepted in zip(both, accepted, strict=True):
                matcher.take(token, is_accepted)
            self._notice(started)

    def fill(self, matchers: Sequence[TextMatcher], mask: Tensor, rows: Sequence[int]) -> NDArray[np.bool_]:
        """Sets the bits of the tokens that may come next, in a row for each text.

        Args:
            mask: int32 [num_rows, ceil(vocab_size / 32)], on the host.
            rows: of each text.

        Returns:
            bool [num_texts]: whether only end tokens may come.
        """
        both = [pair for pair in zip(matchers, rows, strict=True) if not pair[0].is_over]
        if self._num_watched:
            for matcher, row in both:
                matcher.fill(mask, row)
        elif both:
            started = time.perf_counter()
            handles = [matcher.matcher for matcher, _ in both]
            self._filler.batch_fill_next_token_bitmask(handles, mask, [row for _, row in both])
            self._notice(started)
        self._num_watched -= self._num_watched > 0
        bits = mask.numpy().view(np.uint32)
        goes_on = np.any(bits[rows] & ~self._end_mask, axis=1)
        for index in np.flatnonzero(~goes_on).tolist():
            matcher, row = matchers[index], rows[index]
            if not matcher.is_over and not bits[row].any():
                matcher.fail("must be such that the model has tokens for it", "a text that no token goes on with")
        for index, matcher in enumerate(matchers):
            if matcher.is_over:
                bits[rows[index]], goes_on[index] = self._end_mask, False
        only_end: NDArray[np.bool_] = ~goes_on
        return only_end

    def _notice(self, started: float) -> None:
        if time.perf_counter() - started > _SLOW_SECONDS:
            self._num_watched = _WATCHED
