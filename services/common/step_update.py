"""What one step brought to one frontend."""

from dataclasses import dataclass

from quire.engine.api.errors import RequestError
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.open_request import Finish


@dataclass(frozen=True, slots=True)
class StepUpdate:
    """Pairs of a request's handle and what came for it, to be taken in this order.

    Attributes:
        started: tokens of the prompt found in the cache.
        tokens: one new token each.
        logprobs: of these tokens, where they are wanted.
        ended: terminal messages.
    """

    started: list[tuple[int, int]]
    tokens: list[tuple[int, int]]
    logprobs: list[tuple[int, TokenLogprobs]]
    ended: list[tuple[int, Finish | RequestError]]
