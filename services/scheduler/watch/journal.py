"""Requests and events of late: what a snapshot says that the schedulers do not know."""

import itertools
import time
from collections import deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from quire.engine.api.errors import RequestError
from quire.engine.open_request import Finish
from quire.engine.sequence import Sequence, SequenceState
from quire.internal.v1 import scheduler_pb2 as pb
from quire.services.scheduler.event import Event
from quire.services.scheduler.observer import SchedulerObserver
from quire.services.scheduler.watch.event_line import event_line

# Remembered at most, of each kind.
MAX_EVENTS: Final = 64
MAX_ENDED: Final = 64
MAX_SAMPLES: Final = 4096
_STATES: Final = MappingProxyType(
    {
        SequenceState.WAITING: pb.REQUEST_STATE_WAITING,
        SequenceState.CONTEXT: pb.REQUEST_STATE_CONTEXT,
        SequenceState.GENERATION: pb.REQUEST_STATE_GENERATION,
        SequenceState.PAUSING: pb.REQUEST_STATE_PAUSING,
        SequenceState.FINISHED: pb.REQUEST_STATE_ENDED,
    }
)


class Journal(SchedulerObserver):
    """Keeps events and when requests came; while somebody watches, also which ended and how long first tokens took.

    Attributes:
        events: the last ones.
        executor_of: the name of the executor that an open sequence is on; None: nobody watches.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._began: dict[Sequence, float] = {}
        self._ended: deque[pb.RequestSnapshot] = deque(maxlen=MAX_ENDED)
        self._first_tokens: deque[float] = deque(maxlen=MAX_SAMPLES)
        self.events: deque[pb.ServiceEvent] = deque(maxlen=MAX_EVENTS)
        self.executor_of: Callable[[Sequence], str] | None = None

    def begin(self, sequence: Sequence) -> None:
        self._began[sequence] = time.monotonic()

    def start(self, sequence: Sequence) -> None:
        if self.executor_of is None or sequence.request.is_resumed:
            return
        if len(sequence.tokens) == sequence.num_prompt + 1:
            self._first_tokens.append(self.age(sequence))

    def end(self, sequence: Sequence, outcome: Finish | RequestError | None) -> None:
        if self.executor_of is not None:
            row = self.row(self.executor_of(sequence), sequence)
            row.state = pb.REQUEST_STATE_ENDED
            self._ended.append(row)
        self._began.pop(sequence, None)

    def notice(self, event: Event) -> None:
        self.events.append(event_line(next(self._numbers), event))

    def age(self, sequence: Sequence) -> float:
        """Seconds since an open sequence was accepted."""
        now = time.monotonic()
        return now - self._began.get(sequence, now)

    def row(self, executor: str, sequence: Sequence) -> pb.RequestSnapshot:
        """An open sequence on this executor; "": on none."""
        return pb.RequestSnapshot(
            request_id=sequence.request.request_id,
            executor=executor,
            owner=int(sequence.holder or 0),
            state=_STATES[sequence.state],
            num_prompt=sequence.num_prompt,
            num_generated=len(sequence.tokens) - sequence.num_prompt,
            num_cached=sequence.num_cached,
            num_context=sequence.num_context,
            num_computed=sequence.num_computed,
            age_ms=round(1000 * self.age(sequence)),
        )

    def take_ended(self) -> list[pb.RequestSnapshot]:
        """Those of the last sequences that have ended since the last call."""
        ended = list(self._ended)
        self._ended.clear()
        return ended

    def take_first_tokens(self) -> list[float]:
        """Seconds from acceptance to the first token, of those that had theirs since the last call."""
        seconds = list(self._first_tokens)
        self._first_tokens.clear()
        return seconds
