"""One request's place in its frontend's stream."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.errors import RequestError
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.open_request import Finish
from quire.services.scheduler.frontend_stream import FrontendStream


@dataclass(frozen=True, slots=True)
class StreamedRequest:
    """Puts a request's results into the stream under its handle.

    Attributes:
        interval: steps that its tokens may wait to be sent together.
    """

    stream: FrontendStream
    handle: int
    interval: int

    def start(self, cached_tokens: int) -> None:
        self.stream.start(self.handle, cached_tokens)

    def push(self, token_id: int) -> None:
        self.stream.push(self.handle, token_id, self.interval)

    def push_prompt_logprobs(self, position: int, logprobs: TokenLogprobs) -> None:
        self.stream.push_prompt_logprobs(self.handle, position, logprobs)

    def push_embedding(self, embedding: NDArray[np.float32]) -> None:
        self.stream.push_embedding(self.handle, embedding)

    def push_logprobs(self, logprobs: TokenLogprobs) -> None:
        self.stream.push_logprobs(self.handle, logprobs)

    def end(self, outcome: Finish | RequestError) -> None:
        self.stream.end(self.handle, outcome)
