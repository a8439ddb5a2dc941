"""A request that a client waits for."""

import asyncio
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.adapter import Adapter
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import RequestError
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.options import DEFAULT_OPTIONS, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array


@dataclass(frozen=True, slots=True)
class Finish:
    """How a request ended."""

    reason: FinishReason
    stop_token_id: int | None = None


def scheduled_params(params: SamplingParams) -> SamplingParams:
    """What the scheduler is asked for: stop strings are found where text is made, and a step samples a token."""
    return replace(params, stop=(), max_tokens=max(1, params.max_tokens or 0))


class OpenRequest:
    """Results for one request until its coroutine takes them; bounded by its `max_tokens`.

    Args:
        announce: called for each new token; it calls `tell`, now or later. None: now.

    Attributes:
        handle: its number at the scheduler, unique while it is open.
        request_id: the client's name for it, or ours.
        prompt: token ids, int32.
        params: with `seed` and `max_tokens` set, so that a resubmission is the same request.
        options: priority and cache.
        adapter: what changes the model for it; None: nothing does.
        interval: steps that its tokens, but for the first, may wait to be sent together.
        generated: every token received.
        cached_tokens: tokens of the prompt found in the cache.
        finish: set once no more tokens come.
        embedding: of the prompt; empty: it has not come, or none is wanted.
    """

    def __init__(
        self,
        handle: int,
        request_id: str,
        prompt: Int32Array,
        params: SamplingParams,
        options: RequestOptions = DEFAULT_OPTIONS,
        interval: int = 1,
        announce: "Callable[[OpenRequest], None] | None" = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.handle = handle
        self.request_id = request_id
        self.prompt = prompt
        self.params = params
        self.options = options
        self.adapter = adapter
        self.interval = interval
        self.generated = array("i")
        self.cached_tokens: int | None = None
        self.finish: Finish | None = None
        self.embedding: tuple[float, ...] = ()
        self._error: RequestError | None = None
        self._num_taken = 0
        # Log-probabilities of tokens in their order, until they are taken; empty unless the request wants them.
        self._logprobs: list[TokenLogprobs] = []
        self._prompt_logprobs: list[TokenLogprobs] = []
        # The last position of the prompt whose log-probabilities have come.
        self._num_scored = 0
        # Of a prompt that is computed alone, the token behind it is dropped.
        self._max_tokens = params.max_tokens
        self._only_end = False
        self._updated = asyncio.Event()
        self._on_update: Callable[[], None] = self._updated.set
        self._announce = announce or OpenRequest.tell

    @property
    def is_over(self) -> bool:
        """Whether its terminal message has come."""
        return self.finish is not None or self._error is not None

    @property
    def outcome(self) -> Finish | RequestError | None:
        """How it ended; None: it has not."""
        return self.finish or self._error

    def start(self, cached_tokens: int) -> None:
        """So many tokens of the prompt were found in the cache, when it first started."""
        if self.cached_tokens is None:
            self.cached_tokens = cached_tokens

    def push(self, token_id: int) -> None:
        if self._max_tokens == 0:
            return
        self.generated.append(token_id)
        if not self._only_end:
            self._announce(self)

    def tell(self) -> None:
        """Lets those who wait know of tokens, unless these were taken together with others."""
        if self._num_taken < len(self.generated):
            self._on_update()

    def push_prompt_logprobs(self, position: int, logprobs: TokenLogprobs) -> None:
        """Log-probabilities of a token of the prompt; those that came before a fault come again."""
        if position == self._num_scored + 1:
            self._num_scored = position
            self._prompt_logprobs.append(logprobs)

    def push_embedding(self, embedding: NDArray[np.float32]) -> None:
        self.embedding = tuple(embedding.tolist())

    def push_logprobs(self, logprobs: TokenLogprobs) -> None:
        """Log-probabilities of a token that comes before the next call of `take`."""
        self._logprobs.append(logprobs)

    def expect_end(self) -> None:
        """From now on only the end is an update, unless a stop string must be found in time."""
        self._only_end = not self.params.stop
        if self._only_end and not self.is_over:
            self._updated.clear()

    def end(self, outcome: Finish | RequestError) -> None:
        """The terminal message; the first one counts."""
        if self.is_over:
            return
        if isinstance(outcome, Finish):
            is_scored = self._max_tokens == 0 and outcome.reason is FinishReason.STOP
            self.finish = Finish(FinishReason.LENGTH) if is_scored else outcome
        else:
            self._error = outcome
        self._on_update()

    def notify(self, on_update: Callable[[], None]) -> None:
        """Calls it whenever something comes to take, at once if something has; `wait` is for those who do not."""
        self._on_update = on_update
        if self._updated.is_set():
            on_update()

    async def wait(self) -> None:
        """Returns when there is something to take that was not there at the last call."""
        await self._updated.wait()
        self._updated.clear()

    def take(self) -> list[int]:
        """Tokens since the last call.

        Raises:
            RequestError: it failed.
        """
        if self._error is not None:
            raise self._error
        tokens = self.generated[self._num_taken :].tolist()
        self._num_taken = len(self.generated)
        return tokens

    def take_logprobs(self, num_tokens: int) -> tuple[TokenLogprobs, ...]:
        """Log-probabilities of the tokens that `take` has returned; empty unless the request wants them."""
        if not self._logprobs:
            return ()
        taken = tuple(self._logprobs[:num_tokens])
        del self._logprobs[:num_tokens]
        return taken

    def take_prompt_logprobs(self) -> tuple[TokenLogprobs, ...]:
        """Log-probabilities of the prompt's tokens but the first; once, and empty unless the request wants them."""
        taken = tuple(self._prompt_logprobs)
        self._prompt_logprobs.clear()
        return taken
