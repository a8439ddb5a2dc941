"""What every API of the frontend stands on: requests checked, opened and followed. Knows no transport."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence

from quire.engine.api.completion import Completion
from quire.engine.api.errors import InvalidRequest, Unavailable
from quire.engine.api.limits import ServingLimits
from quire.engine.api.options import DEFAULT_OPTIONS, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.open_request import OpenRequest
from quire.engine.text.pieces import Pieces
from quire.engine.text.tokenizer import Tokenizer
from quire.engine.validation import fill_defaults, token_array, validate, validate_options
from quire.services.frontend.scheduler_link import SchedulerLink
from quire.v1 import scheduler_pb2

MAX_REQUEST_ID_BYTES = 128
# Steps that the scheduler may keep the tokens of an answer that is given in one piece: what is lost with it is computed
# again.
WHOLE_INTERVAL = 16
# Shorter texts are tokenized faster than a thread is woken.
LONG_TEXT = 2_000


class Inference:
    """The frontend's work. One object serves all of its APIs.

    Args:
        model: the name that clients know the model by.
        tokenizer: of the model's folder.
        link: to the scheduler.
        stream_interval: steps that a stream's tokens, but for the first, may wait to be sent together.

    Attributes:
        model, tokenizer: as given.
    """

    def __init__(self, model: str, tokenizer: Tokenizer, link: SchedulerLink, stream_interval: int = 1) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._link = link
        self._stream_interval = stream_interval
        self._draining = asyncio.Event()

    @property
    def unavailable_reason(self) -> str | None:
        """Why no request is taken now; None if they are."""
        return "this frontend is shutting down" if self._draining.is_set() else self._link.unavailable_reason

    @property
    def state(self) -> scheduler_pb2.ServingState:
        """What the scheduler can serve now."""
        return self._link.state

    @property
    def num_requests(self) -> int:
        return self._link.num_requests

    def limits(self) -> ServingLimits:
        """What a request may ask for now; raises `Unavailable` while nothing can be computed."""
        return self._link.limits()

    def admit(self) -> None:
        """Refuses what need not be looked at: called before a request is read, where its API allows that.

        Raises:
            Unavailable: nothing can be computed now, or this frontend is shutting down.
            Overloaded: too many requests are open, here or at the scheduler.
        """
        if reason := self.unavailable_reason:
            raise Unavailable(reason)
        self._link.check_room()

    def drain(self) -> None:
        """Takes no more requests; those that run go on."""
        self._draining.set()

    async def draining(self) -> None:
        """Returns when no more requests are taken."""
        await self._draining.wait()

    async def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        field: str,
        request_id: str = "",
        options: RequestOptions = DEFAULT_OPTIONS,
        whole: bool = False,
    ) -> OpenRequest:
        """Checks a request and opens it; `follow` it, and `close` it when its caller has the end.

        Args:
            whole: its pieces will be joined, so that one will do.
            field: name of the prompt in the API at hand, for refusals.
            request_id: the client's name for it; "": one is made.

        Raises:
            RequestError: it is refused.
        """
        self.admit()
        if len(request_id.encode()) > MAX_REQUEST_ID_BYTES:
            raise InvalidRequest("request_id", request_id, f"must be at most {MAX_REQUEST_ID_BYTES} bytes")
        limits = self._link.limits()
        token_ids = await self.encode(prompt) if isinstance(prompt, str) else token_array(prompt, limits, field)
        params = fill_defaults(params, len(token_ids), limits)
        validate(token_ids, params, limits, field=field)
        validate_options(options)
        interval = WHOLE_INTERVAL if whole and not params.stop else self._stream_interval
        opened = self._link.submit(request_id or uuid.uuid4().hex, token_ids, params, options, interval)
        if whole:
            opened.expect_end()
        return opened

    async def follow(self, request: OpenRequest) -> AsyncGenerator[Completion, None]:
        """Its answer in pieces; however the iteration ends, nothing more is computed. `close` it then.

        Raises:
            RequestError: it failed.
        """
        try:
            async for piece in Pieces(request, self.tokenizer).follow():
                yield piece
        finally:
            self._link.withdraw(request)

    def close(self, request: OpenRequest) -> None:
        """Its call has ended, by itself or not: until then it counts as open; harmless if repeated."""
        self._link.close(request)

    def abort(self, request_id: str) -> bool:
        """Ends a running request for those who follow it; False if there is none of this id."""
        request = self._link.find(request_id)
        if request is not None:
            self._link.abort(request)
        return request is not None

    async def encode(self, text: str) -> Int32Array:
        """Token ids of a text, int32, shape (num_tokens,)."""
        if len(text) < LONG_TEXT:
            return self.tokenizer.encode(text)
        return await asyncio.to_thread(self.tokenizer.encode, text)

    def decode(self, token_ids: Sequence[int], field: str) -> str:
        """The text of token ids, without special tokens.

        Raises:
            InvalidRequest: an id is not in the vocabulary; named as the entry of `field`.
        """
        return self.tokenizer.decode(token_array(token_ids, self._link.limits(), field))
