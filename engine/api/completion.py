"""Answers for clients: a whole completion, or one piece of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

from quire.engine.api.logprobs import TokenLogprobs


class FinishReason(IntEnum):
    """Why a sequence ended; values equal those of the protocol."""

    STOP = 1
    LENGTH = 2
    ABORTED = 3


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a finished request.

    Attributes:
        prompt_tokens: tokens of the prompt.
        cached_tokens: of these, those whose KV blocks were found in the cache.
        generated_tokens: tokens made, a stop token among them.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer, or what one message of a stream adds to it.

    Attributes:
        text: text (of a piece: only whole characters, to be joined as they are).
        token_ids: the tokens; they may run ahead of the text of the same piece.
        finish_reason: why it ended; None in every piece but the last.
        matched_stop: the stop string, or the id of the stop token, that ended it.
        usage: what it took; None in every piece but the last.
        request_id: the request's name, also where the server chose it.
        logprobs: one for each of `token_ids`; empty unless the request asked for them.
        index: of several answers to a prompt, which one.
        embedding: of the prompt, in the last piece; empty unless asked for.
        prompt_logprobs: one for each token of the prompt but the first, in the first piece; empty unless asked for.
        cumulative_logprob: the sum of the log-probabilities of all tokens of the answer, in the last piece; None unless
            log-probabilities were asked for. Answers of beam search always have it.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    matched_stop: str | int | None
    usage: Usage | None
    request_id: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    embedding: tuple[float, ...] = ()
    index: int = 0
    cumulative_logprob: float | None = None


def join(pieces: Iterable[Completion]) -> Completion:
    """The whole answer from all its pieces, at least one, in order."""
    parts = list(pieces)
    token_ids = tuple(token_id for part in parts for token_id in part.token_ids)
    logprobs = tuple(each for part in parts for each in part.logprobs)
    return replace(
        parts[-1],
        text="".join(part.text for part in parts),
        token_ids=token_ids,
        logprobs=logprobs,
        prompt_logprobs=parts[0].prompt_logprobs,
    )
