"""Between frontends and executors: which executor takes a request, which stream gets a token."""

import asyncio
import itertools
import logging
from collections.abc import Iterable
from collections.abc import Sequence as List
from dataclasses import asdict
from typing import NoReturn

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest, Overloaded, RequestError, Unavailable
from quire.engine.open_request import Finish
from quire.engine.request import Request
from quire.engine.scheduling.step_output import StepOutput
from quire.engine.sequence import Sequence
from quire.engine.step import ExecutorInfo
from quire.engine.step_observer import StepObserver
from quire.engine.validation import validate, validate_generated
from quire.internal.v1 import scheduler_pb2 as pb
from quire.services.common.logs import request_fields
from quire.services.scheduler import report
from quire.services.scheduler.attached_executor import AttachedExecutor
from quire.services.scheduler.displaced import Displaced
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.frontend_stream import FrontendStream
from quire.services.scheduler.observer import SchedulerObserver
from quire.services.scheduler.spares import Spares
from quire.services.scheduler.streamed_request import StreamedRequest
from quire.services.scheduler.warm_structures import WarmStructures

logger = logging.getLogger(__name__)

# Losses of executors in a row, while a request ran and got no further, behind which it is still tried again. After the
# first it runs alone, so the others count against nobody else.
MAX_FAULTS = 3
# Between two looks at what frontends are told of the load.
LOAD_SECONDS = 0.1


class Dispatcher:
    """Knows every frontend's stream, every attached executor, and where each open sequence is.

    Args:
        epoch: of this scheduler.
        observers: are told of requests, and of what happens to executors.
    """

    def __init__(self, epoch: int, observers: Iterable[SchedulerObserver] = ()) -> None:
        self._epoch = epoch
        self._observers = tuple(observers)
        self._clients = itertools.count(1)
        self._streams: dict[int, FrontendStream] = {}
        self._executors: dict[str, AttachedExecutor] = {}
        # The one that attached last; it may have gone.
        self._latest: AttachedExecutor | None = None
        self._executor_of: dict[Sequence, AttachedExecutor] = {}
        self._recipients: dict[Sequence, StreamedRequest] = {}
        # Sequences of a lost executor while no other is there that can hold them.
        self._unplaced: list[Sequence] = []
        self._displaced = Displaced()
        self._structures = WarmStructures()
        self._spares = Spares()
        self._expected: set[str] = set()
        self._changed = asyncio.Event()
        self._is_finishing = False
        self._impediment = ""
        self._adapters: tuple[Adapter, ...] = ()
        self._emptied = asyncio.Event()

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def executors(self) -> list[AttachedExecutor]:
        """Those that are attached."""
        return list(self._executors.values())

    @property
    def open_executors(self) -> list[AttachedExecutor]:
        """Those that take requests."""
        return self._spares.serving(self._executors.values())

    @property
    def num_serving(self) -> int:
        """Executors that take requests."""
        return len(self.open_executors)

    @property
    def expected(self) -> set[str]:
        """Names of executors that are attached or may attach."""
        return self._expected | self._executors.keys()

    @property
    def num_frontends(self) -> int:
        return len(self._streams)

    @property
    def is_serving(self) -> bool:
        return not self.not_serving_reason

    @property
    def not_serving_reason(self) -> str:
        """Why no token can be made now; "" if they can be."""
        if self._is_finishing:
            return "this scheduler is shutting down"
        return self._impediment if self.open_executors else "no executor is attached"

    @property
    def unplaced(self) -> List[Sequence]:
        """Sequences that no attached executor can hold."""
        return self._unplaced

    def executor_of(self, sequence: Sequence) -> str:
        """The name of the executor that an open sequence is on; "": on none."""
        executor = self._executor_of.get(sequence)
        return "" if executor is None else executor.name

    async def finished(self) -> None:
        """Refuses new requests from now on, and returns when those that are open have ended."""
        self._is_finishing = True
        self._announce()
        while self._recipients:
            self._emptied.clear()
            await self._emptied.wait()

    def impede(self, reason: str) -> None:
        """Says why executors get no plans now; "": they do."""
        if reason != self._impediment:
            self._impediment = reason
            self._announce()

    def serve_adapters(self, adapters: Iterable[Adapter]) -> None:
        """Frontends hear which ones requests may name from now on."""
        self._adapters = tuple(adapters)
        self._announce()

    async def changed(self) -> None:
        """Returns when `not_serving_reason` may have changed since the last call."""
        await self._changed.wait()
        self._changed.clear()

    def expect(self, name: str) -> None:
        """An executor of this name may attach."""
        self._expected.add(name)

    def forget(self, name: str) -> None:
        """It may not any more."""
        self._expected.discard(name)

    async def report_load(self) -> NoReturn:
        """Tells frontends what executors do, for their metrics; a step has nothing to do with it."""
        while True:
            if self._streams:
                load = report.load(self._executors.values(), len(self._unplaced))
                for stream in self._streams.values():
                    stream.set_load(load)
            await asyncio.sleep(LOAD_SECONDS)

    def statistics(self) -> pb.GetStatisticsResponse:
        executors = [
            pb.ExecutorStatistics(
                name=executor.name, is_draining=executor.is_draining, **asdict(executor.scheduler.statistics)
            )
            for executor in self._executors.values()
        ]
        return pb.GetStatisticsResponse(epoch=self._epoch, executors=executors)

    def connect(self) -> FrontendStream:
        """A new frontend's stream; what can be served is its first message."""
        stream = FrontendStream(next(self._clients), self._queue)
        self._streams[stream.client] = stream
        stream.set_state(self._state())
        return stream

    def close(self) -> None:
        """This scheduler leads no more: every frontend's stream ends behind what has gathered for it."""
        for stream in self._streams.values():
            stream.close()

    def disconnect(self, stream: FrontendStream) -> None:
        """Ends everything that the frontend has open."""
        del self._streams[stream.client]
        for handle in list(stream.sequences):
            self.cancel(stream, handle)

    def submit(self, stream: FrontendStream, request: Request) -> None:
        """Queues a request where it costs least, or sends its frontend a refusal.

        Raises:
            InvalidRequest: the handle is open already; no message could say which of the two it is about.
        """
        if request.handle in stream.sequences:
            raise InvalidRequest("handle", request.handle, "must not be open already")
        try:
            if self._is_finishing:
                raise Unavailable("this scheduler is shutting down")
            sequence, executor = self._choose(request)
            if sequence.is_finished:
                stream.end(request.handle, sequence.outcome)
                return
            if request.is_resumed:
                self._check_resumed(sequence)
            if executor is not None:
                executor.scheduler.add(sequence)
        except RequestError as error:
            if isinstance(error, InvalidRequest):
                logger.warning("frontend %d: request %d is refused: %s", stream.client, request.handle, error)
            stream.end(request.handle, error)
            for observer in self._observers:
                observer.refuse(request, error)
            return
        finally:
            self._tell_room()
        stream.sequences[request.handle] = sequence
        self._recipients[sequence] = StreamedRequest(stream, request.handle, request.interval)
        for observer in self._observers:
            observer.begin(sequence)
        if request.params.structured_output is not None:
            self._structures.ask(request.params.structured_output, self._executors.values())
        if executor is None:
            self._unplaced.append(sequence)
        else:
            self._executor_of[sequence] = executor
            executor.loop.wake()

    def cancel(self, stream: FrontendStream, handle: int) -> None:
        """Ends a request without a further message; harmless if it has ended."""
        sequence = stream.sequences.pop(handle, None)
        if sequence is None:
            return
        self._release(sequence, None)
        executor = self._executor_of.pop(sequence, None)
        if executor is None:
            self._unplaced.remove(sequence)
            return
        executor.scheduler.cancel(sequence)
        executor.loop.wake()
        self._tell_room()

    def deliver(self, output: StepOutput) -> None:
        """Sends what a step brought to the frontends that asked for it."""
        output.update().deliver(self._recipients.get)
        for sequence in output.started:
            for observer in self._observers:
                observer.start(sequence)
            self._settle(sequence)
        for sequence, outcome in output.ended:
            self._release(sequence, outcome)
            self._executor_of.pop(sequence, None)
        for stream in self._streams.values():
            stream.end_step()
        self._tell_room()

    def admit(self, name: str, info: ExecutorInfo) -> None:
        """Raises `Unavailable` if an executor computes otherwise than those that are attached, or for other texts.

        A sequence could not move to it.
        """
        for other in self._executors.values():
            if other.info.fingerprint != info.fingerprint:
                raise Unavailable(
                    f"executor {name} is left out: its weights or types are not those of executor {other.name}"
                )
            tokenizers = {other.info.tokenizer_fingerprint, info.tokenizer_fingerprint} - {""}
            if len(tokenizers) > 1:
                raise Unavailable(f"executor {name} is left out: its tokenizer is not that of executor {other.name}")

    def attach(self, executor: AttachedExecutor) -> None:
        """An executor is ready; sequences without one go there.

        Raises:
            Unavailable: as of `admit`.
        """
        self.admit(executor.name, executor.info)
        self._executors[executor.name] = self._latest = executor
        self._spares.attached(self._executors.values())
        unplaced, self._unplaced = self._unplaced, []
        self._place(unplaced)
        self._structures.spread(self._executors.values())
        self._announce()
        blocks = f"{executor.info.num_blocks} blocks, {executor.scheduler.pool.num_cached} cached"
        self.notice(Event(EventKind.EXECUTOR_ATTACHED, executor.name, blocks))

    def drain(self, executor: AttachedExecutor) -> None:
        """An executor is about to go: what waits there waits elsewhere, what runs may finish."""
        if not executor.is_draining:
            num_running = executor.scheduler.num_running
            logger.info("executor %s drains: %d sequences run", executor.name, num_running)
            self.notice(Event(EventKind.EXECUTOR_DRAINING, executor.name, f"{num_running} sequences run"))
            executor.is_draining = True
            self._place(executor.scheduler.withdraw())
            executor.loop.drain()
            self._announce()

    def detach(self, executor: AttachedExecutor, sequences: list[Sequence]) -> None:
        """An executor is gone; its unfinished sequences go on elsewhere with the tokens they have."""
        self._structures.spread(self._executors.values())
        self._executors.pop(executor.name, None)
        self._spares.left(executor)
        self._displaced.add(executor.name, [sequence for sequence in sequences if sequence.was_started])
        self._place(sequences)
        self._announce()

    def notice(self, event: Event) -> None:
        """Tells the observers."""
        for observer in self._observers:
            observer.notice(event)

    def observers_of_steps(self, executor: str) -> list[StepObserver]:
        """Who is to be told of an executor's steps."""
        return [steps for observer in self._observers if (steps := observer.steps(executor))]

    def _place(self, sequences: list[Sequence]) -> None:
        """Sequences that ran, or waited, elsewhere go on where that costs least.

        One on which executor after executor was lost may be what kills them: it goes nowhere any more.
        """
        for sequence in sequences:
            self._executor_of.pop(sequence, None)
            if sequence.num_faults > MAX_FAULTS:
                lost = f"{sequence.num_faults} executors in a row were lost while this ran and got no further"
                # Not to be retried: that would go on with what is stopped here.
                self._fail(sequence, RequestError(lost))
                continue
            executor = self._cheapest(sequence, self._able(sequence.request)[0])
            if executor is None:
                self._unplaced.append(sequence)
            else:
                executor.scheduler.restore(sequence)
                self._executor_of[sequence] = executor
                executor.loop.wake()

    def _fail(self, sequence: Sequence, error: RequestError) -> None:
        request = sequence.request
        logger.error(
            "a request is given up: %s", error, extra=request_fields(request.request_id, request.options.trace)
        )
        if recipient := self._release(sequence, error):
            recipient.end(error)

    def _release(self, sequence: Sequence, outcome: Finish | RequestError | None) -> StreamedRequest | None:
        """Who waited for a sequence that is over; None if nobody did."""
        recipient = self._recipients.pop(sequence, None)
        if not self._recipients:
            self._emptied.set()
        if recipient is not None:
            for observer in self._observers:
                observer.end(sequence, outcome)
            self._settle(sequence)
        return recipient

    def _settle(self, sequence: Sequence) -> None:
        """One that may have run on a lost executor goes on, or has ended."""
        if settled := self._displaced.settle(sequence):
            executor, seconds = settled
            self.notice(Event(EventKind.REQUESTS_RECOVERED, executor, "all that ran there go on", seconds))

    def _choose(self, request: Request) -> tuple[Sequence, AttachedExecutor | None]:
        """The request as a sequence, and the executor where it costs least of those that can hold it.

        None: all have gone since the frontend heard of them, and the request was accepted before: it waits for others.

        Raises:
            Unavailable: no executor takes requests.
            InvalidRequest: no executor can ever hold it.
        """
        able, refusal = self._able(request)
        if able:
            sequence = Sequence(request, able[0].info.eos_token_ids)
            return sequence, self._cheapest(sequence, able)
        if self._latest is None or not request.is_resumed or self.open_executors:
            raise refusal
        return Sequence(request, self._latest.info.eos_token_ids), None

    def _check_resumed(self, sequence: Sequence) -> None:
        """Raises `Overloaded` for more than a scheduler before this one could have accepted.

        All its requests may come to the first executor that attaches, so those to come count as the largest that is
        here. Twice as much may come, as more executors may have been there before.
        """
        schedulers = [executor.scheduler for executor in self.open_executors or (self._latest,) if executor]
        num_executors = 2 * max(len(self._expected), len(schedulers))
        most_requests = num_executors * max(scheduler.max_accepted_requests for scheduler in schedulers)
        most_tokens = num_executors * max(scheduler.max_accepted_tokens for scheduler in schedulers)
        num_open = len(self._executor_of) + len(self._unplaced)
        waiting = (executor.scheduler.num_context_tokens for executor in self.open_executors)
        num_tokens = sequence.num_context + sum(waiting)
        if num_open >= most_requests or (num_open and num_tokens > most_tokens):
            raise Overloaded(
                f"{num_open} requests are open and {num_tokens} tokens would wait, at most {most_requests} and "
                f"{most_tokens} may",
                max(scheduler.retry_after for scheduler in schedulers),
            )

    def _able(self, request: Request) -> tuple[list[AttachedExecutor], RequestError]:
        """The executors that can ever hold a request, and what to say if there is none."""
        refusal: RequestError = Unavailable("no executor is attached")
        able = []
        for executor in self.open_executors:
            try:
                validate(request.prompt, request.params, executor.limits)
                validate_generated(request.generated, request.params, executor.limits)
                able.append(executor)
            except InvalidRequest as error:
                refusal = error
        return able, refusal

    @staticmethod
    def _cheapest(sequence: Sequence, executors: list[AttachedExecutor]) -> AttachedExecutor | None:
        """The executor with the least sum of load and prefill after the cached prefix.

        One that would have to load what compiles structured outputs comes last, if the sequence has one.
        """
        if sequence.request.params.structured_output is not None:
            executors = [each for each in executors if each.scheduler.has_structures] or executors
        return min(executors, key=lambda executor: executor.cost(sequence), default=None)

    def _announce(self) -> None:
        self._changed.set()
        for stream in self._streams.values():
            stream.set_state(self._state())

    def _tell_room(self) -> None:
        executors = self.open_executors
        room, full_tenants = report.room(executors), report.full_tenants(executors)
        for stream in self._streams.values():
            stream.set_room(room, full_tenants)

    def _queue(self) -> pb.QueueState:
        return report.queue_state(self.open_executors)

    def _state(self) -> pb.ServingState:
        executors = [] if self._is_finishing else self.open_executors
        return report.serving_state(self._epoch, executors, self._impediment, self._adapters)
