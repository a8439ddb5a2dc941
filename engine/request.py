"""What a client asks for: a `Request` and its `SamplingParams`, and how it can end."""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Int32Array: TypeAlias = NDArray[np.int32]

DEFAULT_MAX_TOKENS = 128


class FinishReason(IntEnum):
    """Why a sequence ended; values equal those of the protocol."""

    STOP = 1
    LENGTH = 2
    ABORTED = 3


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop.

    Penalties apply to the model's logits first, of greedy requests too; then temperature, top_k, top_p, min_p.

    Attributes:
        temperature: divides the logits; 0 is greedy, at most 100.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with at least this probability mass; in (0, 1].
        min_p: keep tokens at least this likely relative to the most likely one; in [0, 1].
        seed: the same seed and request give the same tokens; None draws one at submission.
        max_tokens: at least 1; None means 128, or what the context leaves if that is less.
        stop: strings that end the text, which then ends before the match.
        stop_token_ids: tokens that end the sequence; the matched one is in the ids but not in the text.
        ignore_eos: go on past the model's own end-of-sequence tokens.
        presence_penalty: taken off the logit of each token generated so far; -2 to 2.
        frequency_penalty: taken off once for each time the token was generated; -2 to 2.
        repetition_penalty: divides positive and multiplies negative logits of each token in the prompt or generated so
            far; above 0, at most 10.
        logprobs: with each token its log-probability and those of so many most likely tokens, 0 to 20, by the model's
            own logits; None: without.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None

    @property
    def is_penalized(self) -> bool:
        """Whether what a sequence has said changes what it says next."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0 or self.repetition_penalty != 1


DEFAULT_RETENTION_PRIORITY = 35


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the blocks of a range of tokens are kept in the cache, against others.

    Attributes:
        start, end: positions in prompt and generation, [start, end); None: to the last.
        priority: 0 to 100; blocks of higher priority are evicted later.
        duration_ms: after so long unused the blocks have the default priority of 35; None: never.
    """

    start: int
    end: int | None
    priority: int
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CacheParams:
    """How a request's KV blocks are shared and kept.

    Attributes:
        salt: blocks are shared only among requests of the same salt.
        opt_out: neither look for cached blocks nor leave any.
        retention: tokens in no range have priority 35; in several, the highest.
    """

    salt: str = ""
    opt_out: bool = False
    retention: tuple[Retention, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What a request asks of the scheduler, beyond its tokens.

    Attributes:
        priority: higher goes first; -100 to 100.
        cache: how its blocks are shared and kept.
    """

    priority: int = 0
    cache: CacheParams = CacheParams()


DEFAULT_OPTIONS = RequestOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One validated request as the scheduler sees it: token ids only, every default filled in.

    Attributes:
        request_id: the client's name for it, for logs.
        client: who gets the tokens: an index of the caller's own (a frontend's stream).
        handle: the caller's number for the request, unique per client while it is open.
        prompt: token ids, int32, shape (num_prompt,), at least one.
        generated: token ids already delivered before a fault, int32, shape (num_generated,).
        params: with `seed` and `max_tokens` set; `stop` strings are not looked at here.
        options: priority and cache.
        is_resumed: it was accepted before a fault, so no bound may refuse it now.
        interval: steps that its tokens, but for the first, may wait to be sent together.
    """

    request_id: str
    client: int
    handle: int
    prompt: Int32Array
    generated: Int32Array
    params: SamplingParams
    options: RequestOptions = DEFAULT_OPTIONS
    is_resumed: bool = False
    interval: int = 1
