"""The `TextMatcher`: one sequence's text so far, held against its grammar. Its state depends on the tokens alone."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from torch import Tensor

from quire.engine.api.errors import InvalidRequest, RequestError
from quire.engine.grammar.store import FIELD

if TYPE_CHECKING:
    from xgrammar import GrammarMatcher

# Seconds of a core that one sequence may take to be followed: at first, and for each token. An ambiguous grammar takes
# more with every token, and all sequences of a step wait for it.
_SECONDS: Final = 1.0
_SECONDS_PER_TOKEN: Final = 0.01


class TextMatcher:
    """Follows one text.

    Args:
        matcher: the library's, at its start.
        end_tokens: ids of the tokens that end a sequence.

    Attributes:
        matcher: as given.
        is_over: whether the text has ended or failed: only end tokens may come.
        failure: why the sequence must not go on; None if it may.
    """

    def __init__(self, matcher: "GrammarMatcher", end_tokens: frozenset[int]) -> None:
        self.matcher = matcher
        self.is_over = False
        self.failure: RequestError | None = None
        self._end_tokens = end_tokens
        self._seconds_left = _SECONDS

    def accept(self, tokens: Iterable[int]) -> None:
        """Takes in tokens; those behind the end change nothing."""
        started = time.thread_time()
        for token in tokens:
            if self.is_over:
                break
            self._seconds_left += _SECONDS_PER_TOKEN
            self.take(token, self.matcher.accept_token(token))
        self._spend(started)

    def fill(self, mask: Tensor, row: int) -> None:
        """Sets a row's bits of the tokens that may come next.

        Args:
            mask: int32 [num_rows, ceil(vocab_size / 32)], on the host.
        """
        started = time.thread_time()
        self.matcher.fill_next_token_bitmask(mask, row)
        self._spend(started)

    def take(self, token: int, is_accepted: bool) -> None:
        """The library was given a token."""
        if not is_accepted:
            self.fail("must allow a token that the other parameters allow too", f"none behind token {token}")
        elif token in self._end_tokens:
            self.is_over = True

    def fail(self, limit: str, value: str) -> None:
        """The sequence cannot go on; the first reason counts."""
        self.is_over = True
        self.failure = self.failure or InvalidRequest(FIELD, value, limit)

    def _spend(self, started: float) -> None:
        self._seconds_left -= time.thread_time() - started
        if self._seconds_left < 0:
            limit = f"must take at most {_SECONDS_PER_TOKEN * 1000:.0f} ms a token to follow"
            self.fail(limit, "an ambiguous or very large grammar")
