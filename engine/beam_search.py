"""Beam search: candidates in, the next beams out. It knows neither text nor how candidates are computed.

    live beams ─┬─ each with its most likely next tokens ─▶ candidates, the most likely sequences first
                │      the first `beam_width` of them that end ────────▶ finished, the best `beam_width` are kept
                └────◀ the first `beam_width` of them that go on

The rules and their order are those of `generate` of `transformers`, version 5. So is what `early_stopping` means.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from quire.engine.api.beam_search import BeamSearchParams, EarlyStopping
from quire.engine.api.completion import FinishReason
from quire.engine.api.limits import MAX_LOGPROBS
from quire.engine.api.logprobs import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Beam:
    """A beginning of an answer, or a whole one.

    Attributes:
        token_ids: generated so far.
        cumulative_logprob: the sum of their log-probabilities.
        logprobs: one for each of them, with the most likely tokens that the search asked for.
        finish_reason: why it ended; None: it goes on.
    """

    token_ids: tuple[int, ...] = ()
    cumulative_logprob: float = 0.0
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None


_START: Final = Beam()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A live beam and a token that may follow it."""

    beam: Beam
    found: TokenLogprobs
    place: int

    @property
    def token_id(self) -> int:
        return self.found.top_token_ids[self.place]

    @property
    def cumulative_logprob(self) -> float:
        return self.beam.cumulative_logprob + self.found.top_logprobs[self.place]

    def chosen(self, finish_reason: FinishReason | None = None) -> Beam:
        found, token_id = replace(self.found, logprob=self.found.top_logprobs[self.place]), self.token_id
        return Beam(
            (*self.beam.token_ids, token_id), self.cumulative_logprob, (*self.beam.logprobs, found), finish_reason
        )


class BeamSearch:
    """The search for the answers to one prompt.

    Args:
        params: the search's.
        max_tokens: of an answer, at least 1.
        eos_token_ids: the model's own end tokens.

    Attributes:
        num_candidates: most likely tokens that `advance` needs of each live beam.
        num_tokens: of each live beam; steps taken.
        live: beams that go on; what comes next after each of them is asked for. The most likely first.
    """

    def __init__(self, params: BeamSearchParams, max_tokens: int, eos_token_ids: Iterable[int]) -> None:
        self._params = params
        self._max_tokens = max_tokens
        self._end_token_ids = frozenset(params.stop_token_ids).union(() if params.ignore_eos else eos_token_ids)
        # So many hold `beam_width` tokens that go on, whatever ends. With more end tokens than the limit leaves room
        # for, this fails only where most of the 20 most likely tokens are end tokens.
        self.num_candidates = min(MAX_LOGPROBS, params.beam_width + len(self._end_token_ids))
        self.live: Sequence[Beam] = [_START]
        self._finished: list[Beam] = []
        self.num_tokens = 0

    @property
    def is_over(self) -> bool:
        return not self.live or (len(self._finished) == self._params.beam_width and not self._may_improve())

    @property
    def answers(self) -> list[Beam]:
        """The best answers found, at most `beam_width`, the best first."""
        return list(self._finished)

    def advance(self, found: Sequence[TokenLogprobs]) -> None:
        """Takes the next step.

        Args:
            found: for each live beam the `num_candidates` most likely tokens behind it, or more.
        """
        self.num_tokens += 1
        width, is_last = self._params.beam_width, self.num_tokens == self._max_tokens
        # Stable: of equally likely candidates that of the more likely beam comes first.
        ranked = sorted(self._candidates(found), key=lambda each: -each.cumulative_logprob)
        ending = [(each, self._finish_reason(each, is_last)) for each in ranked[:width]]
        self._keep(each.chosen(reason) for each, reason in ending if reason is not None)
        going = (each for each in ranked if self._finish_reason(each, is_last) is None)
        self.live = [each.chosen() for each, _ in zip(going, range(width), strict=False)]

    def abort(self) -> None:
        """Ends the search; live beams become answers as they are."""
        self._keep(replace(beam, finish_reason=FinishReason.ABORTED) for beam in self.live)
        self.live = []

    def _candidates(self, found: Sequence[TokenLogprobs]) -> Iterator[_Candidate]:
        for beam, each in zip(self.live, found, strict=True):
            for place in range(len(each.top_token_ids)):
                yield _Candidate(beam, each, place)

    def _finish_reason(self, candidate: _Candidate, is_last: bool) -> FinishReason | None:
        if candidate.token_id in self._end_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if is_last else None

    def _keep(self, ended: Iterable[Beam]) -> None:
        kept = sorted([*self._finished, *ended], key=lambda beam: -self._score(beam, len(beam.token_ids)))
        self._finished = kept[: self._params.beam_width]

    def _may_improve(self) -> bool:
        """Whether the most likely live beam may become better than the worst answer."""
        params, length = self._params, self.num_tokens
        if params.early_stopping is EarlyStopping.FULL:
            return False
        if params.early_stopping is EarlyStopping.NEVER and params.length_penalty > 0:
            length = self._max_tokens
        worst = self._finished[-1]
        return self._score(self.live[0], length) > self._score(worst, len(worst.token_ids))

    def _score(self, beam: Beam, length: int) -> float:
        # A search that ends before its first token has beams without length.
        return beam.cumulative_logprob / math.pow(max(1, length), self._params.length_penalty)
