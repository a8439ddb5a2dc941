"""The `TextMatcher`: one sequence's text so far, held against its grammar. Its state depends on the tokens alone."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np
from torch import Tensor

from quire.engine.api.errors import InvalidRequest, RequestError
from quire.engine.arrays import Int32Array
from quire.engine.grammar.store import FIELD

if TYPE_CHECKING:
    from xgrammar import GrammarMatcher

# Seconds of a core that the masks of one sequence may take: at first, and for each token. An ambiguous grammar takes
# more with every token, and all sequences of a step wait for it.
_SECONDS: Final = 1.0
_SECONDS_PER_TOKEN: Final = 0.01


class TextMatcher:
    """Says which tokens may come next. When the text is complete and cannot go on, only the end tokens may.

    Args:
        matcher: the library's, at its start; None where there is a failure.
        end_mask: int32 [ceil(vocab_size / 32)]: the bits of the end tokens.
        failure: why there is no matcher.

    Attributes:
        failure: why the sequence must not go on; None if it may.
    """

    def __init__(
        self, matcher: "GrammarMatcher | None", end_mask: Int32Array, failure: RequestError | None = None
    ) -> None:
        self._matcher = matcher
        self._end_mask = end_mask
        self._seconds_left = _SECONDS
        self.failure = failure

    def accept(self, tokens: Iterable[int]) -> None:
        """Takes in tokens; those behind the end change nothing."""
        started = time.thread_time()
        for token in tokens:
            if (matcher := self._open()) is None:
                break
            self._seconds_left += _SECONDS_PER_TOKEN
            if not matcher.accept_token(token):
                limit = "must allow a token that the other parameters allow too"
                self.failure = InvalidRequest(FIELD, f"none behind token {token}", limit)
        self._spend(started)

    def fill(self, mask: Tensor, row: int) -> bool:
        """Sets a row's bits of the tokens that may come next; True if these are end tokens only.

        Args:
            mask: int32 [num_rows, ceil(vocab_size / 32)], on the host.
        """
        bits = mask.numpy()[row]
        if (matcher := self._open()) is not None:
            started = time.thread_time()
            matcher.fill_next_token_bitmask(mask, row)
            self._spend(started)
            if np.any(bits & ~self._end_mask):
                return False
            if not bits.any():
                limit = "must be such that the model has tokens for it"
                self.failure = InvalidRequest(FIELD, "a text that no token goes on with", limit)
        bits[:] = self._end_mask
        return True

    def _open(self) -> "GrammarMatcher | None":
        """The library's, unless the text has ended or failed."""
        return None if self._matcher is None or self.failure or self._matcher.is_terminated() else self._matcher

    def _spend(self, started: float) -> None:
        self._seconds_left -= time.thread_time() - started
        if self._seconds_left < 0 and self.failure is None:
            limit = f"must take at most {_SECONDS_PER_TOKEN * 1000:.0f} ms a token to follow"
            self.failure = InvalidRequest(FIELD, "an ambiguous or very large grammar", limit)
