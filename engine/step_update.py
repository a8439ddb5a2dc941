"""What one step brought to requests, and how it reaches those who wait for it."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.errors import RequestError
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.open_request import Finish

Key = TypeVar("Key", bound=Hashable)


class Recipient(Protocol):
    """Who takes the results of one request."""

    def start(self, cached_tokens: int) -> None:
        """Its context is complete; so many tokens of its prompt were found in the cache."""

    def push(self, token_id: int) -> None:
        """A new token."""

    def push_prompt_logprobs(self, position: int, logprobs: TokenLogprobs) -> None:
        """Log-probabilities of the prompt's token at this position, from 1; some come again after a fault."""

    def push_embedding(self, embedding: NDArray[np.float32]) -> None:
        """The embedding of its prompt, [hidden_size]; it may come again after a fault."""

    def push_logprobs(self, logprobs: TokenLogprobs) -> None:
        """Log-probabilities of the token that came with the same step."""

    def end(self, outcome: Finish | RequestError) -> None:
        """The terminal message."""


@dataclass(frozen=True, slots=True)
class StepUpdate(Generic[Key]):
    """Pairs of a request's key and what came for it.

    Attributes:
        started: tokens of the prompt found in the cache.
        tokens: one new token each.
        logprobs: of these tokens, where they are wanted.
        ended: terminal messages.
        prompt_logprobs: each with its position in the prompt.
        embeddings: of prompts.
    """

    started: Iterable[tuple[Key, int]]
    tokens: Iterable[tuple[Key, int]]
    logprobs: Iterable[tuple[Key, TokenLogprobs]]
    ended: Iterable[tuple[Key, Finish | RequestError]]
    prompt_logprobs: Iterable[tuple[Key, int, TokenLogprobs]] = ()
    embeddings: Iterable[tuple[Key, NDArray[np.float32]]] = ()

    def deliver(self, find: Callable[[Key], Recipient | None]) -> None:
        """Gives everything to the recipients that `find` knows, in this order; what is for others is dropped."""
        for key, position, entry in self.prompt_logprobs:
            if recipient := find(key):
                recipient.push_prompt_logprobs(position, entry)
        for key, embedding in self.embeddings:
            if recipient := find(key):
                recipient.push_embedding(embedding)
        for key, cached_tokens in self.started:
            if recipient := find(key):
                recipient.start(cached_tokens)
        for key, token_id in self.tokens:
            if recipient := find(key):
                recipient.push(token_id)
        for key, logprobs in self.logprobs:
            if recipient := find(key):
                recipient.push_logprobs(logprobs)
        for key, outcome in self.ended:
            if recipient := find(key):
                recipient.end(outcome)
