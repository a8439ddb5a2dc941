"""Messages to one frontend: one per step, or for several steps if the frontend reads slowly."""

import asyncio
from array import array
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quire.engine.api.errors import RequestError, Unavailable
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.logprobs import pack
from quire.engine.open_request import Finish
from quire.engine.sequence import Sequence
from quire.internal.v1 import scheduler_pb2 as pb
from quire.protos.status import retry_delay
from quire.services.common import wire
from quire.services.common.interceptor import to_status

_ENDLESS = 1 << 30
# What is left of a queue, or was taken of it, that a frontend without messages is told at once.
_NOTABLE_SHARE = 1 / 16


class FrontendStream:
    """Gathers what is new until the frontend's stream takes it, or as long as the requests allow.

    It is bounded by what its open requests may still generate.

    Args:
        queue: how full the queues are now; every message says so.

    Attributes:
        client: index of the frontend among all that ever connected.
        sequences: handle → open sequence.
    """

    def __init__(self, client: int, queue: Callable[[], pb.QueueState]) -> None:
        self.client = client
        self._queue = queue
        self._room_told = 0
        self._full_told: frozenset[str] = frozenset()
        self._room_changed = False
        self._load = pb.Load()
        self._load_changed = True
        self.sequences: dict[int, Sequence] = {}
        self._state: pb.ServingState | None = None
        self._handles, self._token_ids = array("i"), array("i")
        self._started, self._cached = array("i"), array("i")
        self._queue_seconds = array("f")
        self._logprobs: list[tuple[int, TokenLogprobs]] = []
        self._prompt_logprobs: list[tuple[int, int, TokenLogprobs]] = []
        self._embeddings: list[tuple[int, NDArray[np.float32]]] = []
        self._finished: list[pb.SequenceFinished] = []
        self._failed: list[pb.SequenceFailed] = []
        # Steps that what is gathered may still wait.
        self._steps_left = _ENDLESS
        self._updated = asyncio.Event()
        # Of a closed stream: what the frontend still gets.
        self._last: list[pb.ConnectResponse] | None = None

    def close(self) -> None:
        """Ends the stream behind what has come; nothing that comes later is sent, above all no failure."""
        if self._last is None:
            self._last = self._take_messages()
            self._updated.set()

    def set_state(self, state: pb.ServingState) -> None:
        """The serving state has changed."""
        self._state = state
        self._updated.set()

    def set_room(self, room: int, full_tenants: frozenset[str] = frozenset()) -> None:
        """So many requests may still be queued, of these tenants none; told at once if that changes something, else
        with the next message.
        """
        is_flipped = (room == 0) != (self._room_told == 0) or full_tenants != self._full_told
        if is_flipped or abs(room - self._room_told) > _NOTABLE_SHARE * max(room, self._room_told):
            self._room_changed = True
            self._updated.set()

    def set_load(self, load: pb.Load) -> None:
        """What executors do now; told at once if it is something else."""
        if load != self._load:
            self._load = load
            self._load_changed = True
            self._updated.set()

    def start(self, handle: int, cached_tokens: int) -> None:
        """Its first token comes with the same step, and waits for no other."""
        self._steps_left = 1
        self._started.append(handle)
        self._cached.append(cached_tokens)
        self._queue_seconds.append(self.sequences[handle].queue_seconds)

    def push(self, handle: int, token_id: int, interval: int) -> None:
        """A token, which may wait until `interval` steps have ended, this one included."""
        self._handles.append(handle)
        self._token_ids.append(token_id)
        if interval < self._steps_left:
            self._steps_left = interval

    def end_step(self) -> None:
        """A step has brought what it has; tokens that may not wait longer are sent, and all others with them."""
        if self._handles:
            self._steps_left -= 1
            if self._steps_left <= 0:
                self._updated.set()

    def push_prompt_logprobs(self, handle: int, position: int, logprobs: TokenLogprobs) -> None:
        """Log-probabilities of a token of its prompt; of long prompts they do not wait for its first token."""
        self._prompt_logprobs.append((handle, position, logprobs))
        self._updated.set()

    def push_embedding(self, handle: int, embedding: NDArray[np.float32]) -> None:
        """The embedding of its prompt, which comes with its first token."""
        self._embeddings.append((handle, embedding))

    def push_logprobs(self, handle: int, logprobs: TokenLogprobs) -> None:
        """Log-probabilities of the token that comes with the same step."""
        self._logprobs.append((handle, logprobs))

    def end(self, handle: int, outcome: Finish | RequestError) -> None:
        """The terminal message of a request, which ended by itself or could not be served."""
        self.sequences.pop(handle, None)
        if isinstance(outcome, Finish):
            self._finished.append(wire.finished_to_proto(handle, outcome))
        else:
            self._failed.append(_failed(handle, outcome))
        self._updated.set()

    async def next(self) -> list[pb.ConnectResponse]:
        """All results since the last call; waits until there are some.

        Raises:
            Unavailable: this scheduler does not lead any more.
        """
        await self._updated.wait()
        if self._last is None:
            self._updated.clear()
            return self._take_messages()
        messages, self._last = self._last, []
        if not messages:
            raise Unavailable("this scheduler does not lead any more")
        return messages

    def _take_messages(self) -> list[pb.ConnectResponse]:
        self._steps_left = _ENDLESS
        messages = []
        if self._state is not None:
            messages.append(pb.ConnectResponse(state=self._state))
            self._state = None
        if self._handles or self._finished or self._failed or self._prompt_logprobs:
            messages.append(pb.ConnectResponse(output=self._take_output()))
        if (self._room_changed or self._load_changed) and not messages:
            messages.append(pb.ConnectResponse())
        if messages:
            if self._load_changed:
                messages[-1].load.CopyFrom(self._load)
                self._load_changed = False
            queue = self._queue()
            messages[-1].queue.CopyFrom(queue)
            self._room_told, self._full_told = queue.room, frozenset(queue.full_tenants)
            self._room_changed = False
        return messages

    def _take_output(self) -> pb.StepOutput:
        output = pb.StepOutput(
            handles=self._handles.tobytes(),
            token_ids=self._token_ids.tobytes(),
            started_handles=self._started.tobytes(),
            cached_tokens=self._cached.tobytes(),
            queue_seconds=self._queue_seconds.tobytes(),
            finished=self._finished,
            failed=self._failed,
            logprobs=wire.logprobs_to_proto(pack(self._logprobs)) if self._logprobs else None,
            prompt_logprobs=wire.prompt_logprobs_to_proto(self._prompt_logprobs) if self._prompt_logprobs else None,
            embeddings=wire.embeddings_to_proto(self._embeddings) if self._embeddings else None,
        )
        self._handles, self._token_ids = array("i"), array("i")
        self._started, self._cached = array("i"), array("i")
        self._queue_seconds = array("f")
        self._logprobs, self._prompt_logprobs, self._embeddings = [], [], []
        self._finished, self._failed = [], []
        return output


def _failed(handle: int, error: RequestError) -> pb.SequenceFailed:
    status = to_status(error)
    return pb.SequenceFailed(
        handle=handle,
        code=status.code,
        message=status.message,
        retryable=error.retryable,
        retry_ms=int(1000 * (retry_delay(error) or 0)),
    )
