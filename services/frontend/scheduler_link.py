"""Everything that a frontend has open at the scheduler that leads."""

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import NoReturn

from quire.engine.adapter_names import find_adapter
from quire.engine.api.adapter import Adapter
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import InvalidRequest, Overloaded, RequestError, Unavailable
from quire.engine.api.limits import ServingLimits
from quire.engine.api.options import DEFAULT_OPTIONS, RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.arrays import Int32Array
from quire.engine.open_request import Finish, OpenRequest
from quire.internal.v1 import scheduler_pb2 as pb
from quire.services.common import wire
from quire.services.common.channel import DEFAULT_CONNECTOR, Connector
from quire.services.common.targets import Targets
from quire.services.frontend.observer import FrontendObserver
from quire.services.frontend.open_calls import OpenCalls
from quire.services.frontend.pace import Pace
from quire.services.frontend.scheduler_stream import SchedulerStream
from quire.services.frontend.schedulers import Schedulers

logger = logging.getLogger(__name__)

FAILOVER_SECONDS = 5.0
# Between two looks at a state that is awaited.
STATE_SECONDS = 0.005


class SchedulerLink:
    """Submits and cancels requests, and hands each what comes for it.

    When the scheduler goes, what is open stays open: it is submitted again, with every token already received,
    to the scheduler that leads next. What comes meanwhile waits for that one, too.

    Args:
        targets: where schedulers are.
        name: this frontend's, for their logs.
        max_requests: open at once; more are refused.
        tokenizer_fingerprint: this frontend's; with that of another model nothing is served.
        connector: how schedulers are reached.
        observers: are told of requests.
        failover_seconds: how long the state of a scheduler that has gone stands for that of the next one.

    Attributes:
        load: what the scheduler said last that executors do; empty while none leads.
    """

    def __init__(
        self,
        targets: Targets,
        name: str,
        max_requests: int,
        tokenizer_fingerprint: str,
        connector: Connector = DEFAULT_CONNECTOR,
        observers: Iterable[FrontendObserver] = (),
        failover_seconds: float = FAILOVER_SECONDS,
    ) -> None:
        self._schedulers = Schedulers(targets, name, self._follow, self._receive, connector)
        self._leader: SchedulerStream | None = None
        self._tokenizer_fingerprint = tokenizer_fingerprint
        self._failover_seconds = failover_seconds
        self._failing_over: asyncio.TimerHandle | None = None
        self._observers = tuple(observers)
        self._pace = Pace(self._tell)
        self.load = pb.Load()
        self._lost_at: float | None = None
        self._requests: dict[int, OpenRequest] = {}
        # Of these, those that stand for others; the scheduler does not get them.
        self._held: set[OpenRequest] = set()
        self._calls = OpenCalls(max_requests, self.abort)
        # Those that no scheduler has got.
        self._fresh: set[OpenRequest] = set()
        # What the queues may still take; None: not said yet. What was submitted since the scheduler said so, by tenant:
        # that of a tenant may be refused there, so it takes no room from the others here.
        self._room: int | None = None
        self._submitted: Counter[str] = Counter()
        self._retry_after = 0.0
        self._full_tenants: frozenset[str] = frozenset()
        # By tenant and id.
        self._by_id: dict[tuple[str, str], OpenRequest] = {}
        self._next_handle = 0
        self._state = pb.ServingState()
        self._adapters: Mapping[str, Adapter] = {}
        # Of the last state in which something could be served: what was computed then may come behind the end of that.
        self._vocab_size = 0
        self._state_changed = asyncio.Event()
        self._closed = asyncio.Event()
        # Nothing is submitted before the leader has said that it can compute.
        self._is_open = False

    @property
    def state(self) -> pb.ServingState:
        """What can be served; `num_executors` is 0 while nothing can, and no scheduler is expected to lead soon."""
        return self._state

    @property
    def unavailable_reason(self) -> str | None:
        """Why nothing can be served now; None if requests can be."""
        if not self._state.num_executors:
            return "no executor is attached" if self._leader else "no scheduler leads"
        theirs = self._state.tokenizer_fingerprint
        if theirs and theirs != self._tokenizer_fingerprint:
            return "this frontend's tokenizer is not that of the executors' model; --model must name the same model"
        return None

    @property
    def not_serving_reason(self) -> str | None:
        """Why no token can be made now; None if they can be. Requests may be taken nevertheless, and wait."""
        if self._leader is None:
            return "no scheduler leads"
        state = self._leader.state
        if not state.num_executors:
            return "no executor is attached"
        return state.impediment or self.unavailable_reason

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Adapters that requests may name, by name."""
        return self._adapters

    def adapters_in_use(self) -> tuple[set[str], set[str]]:
        """Names of adapters whose requests run, and of those whose requests wait."""
        running, waiting = set[str](), set[str]()
        for request in self._requests.values():
            if request.adapter is not None:
                (waiting if request.cached_tokens is None else running).add(request.adapter.name)
        return running, waiting

    async def load_adapter(self, name: str, path: str, *, replace: bool) -> Adapter:
        """Has the leader take an adapter; returns when requests may name it here.

        Raises:
            RequestError: it does not.
        """
        adapter = await self._leading().load_adapter(name, path, replace=replace)
        await self._until(lambda: self._adapters.get(name) == adapter)
        return adapter

    async def unload_adapter(self, name: str) -> None:
        """Has the leader give an adapter up; returns when requests may not name it here.

        Raises:
            RequestError: there is none of this name.
        """
        await self._leading().unload_adapter(name)
        await self._until(lambda: name not in self._adapters)

    @property
    def num_requests(self) -> int:
        """Requests whose calls have not ended."""
        return len(self._calls)

    def check_room(self, tenant: str = "", weight: int = 1) -> None:
        """Raises `Overloaded` if a request of the tenant would be refused now, here or by the scheduler."""
        self._calls.check(tenant, weight)
        if self._room is not None and self._room <= self._submitted[tenant]:
            raise Overloaded("the scheduler's queues are full", self._retry_after)
        if tenant in self._full_tenants:
            whose = tenant or "callers without a key"
            raise Overloaded(f"the scheduler's queues have more than the share of {whose}", self._retry_after)

    def limits(self) -> ServingLimits:
        """Limits of a request now.

        Raises:
            Unavailable: nothing can be served now.
        """
        if reason := self.unavailable_reason:
            raise Unavailable(reason)
        return wire.limits_from_proto(self._state)

    async def state_changed(self) -> None:
        """Returns when `state` or `not_serving_reason` may have changed since the last call."""
        await self._state_changed.wait()
        self._state_changed.clear()

    def submit(
        self,
        request_id: str,
        prompt: Int32Array,
        params: SamplingParams,
        options: RequestOptions = DEFAULT_OPTIONS,
        interval: int = 1,
        arrived: float | None = None,
    ) -> OpenRequest:
        """Opens a validated request; `close` it when its call has ended, it is over or not.

        Args:
            arrived: when, in seconds of `time.monotonic`; None: now.

        Raises:
            Overloaded: too many are open.
            InvalidRequest: one of this id is open.
        """
        self.check_room(options.tenant, options.tenant_weight)
        request = self._new(request_id, prompt, params, options, self._adapter(options), interval)
        self._calls.begin(request)
        self._begin(request, arrived)
        self._submit(request)
        return request

    def hold(
        self,
        request_id: str,
        prompt: Int32Array,
        params: SamplingParams,
        options: RequestOptions,
        arrived: float | None = None,
    ) -> OpenRequest:
        """Opens a request as `submit` does, which the scheduler does not get: those of `submit_step` stand for it."""
        self.check_room(options.tenant, options.tenant_weight)
        request = self._new(request_id, prompt, params, options, self._adapter(options))
        self._calls.begin(request)
        self._begin(request, arrived)
        self._held.add(request)
        return request

    def submit_step(
        self, held: OpenRequest, prompt: Int32Array, params: SamplingParams, options: RequestOptions
    ) -> OpenRequest:
        """Opens a request for a held one, which no bound refuses; `withdraw` it when it is no longer wanted."""
        request = self._new(uuid.uuid4().hex, prompt, params, options, held.adapter)
        self._submit(request, resumed=True)
        return request

    def find(self, request_id: str, tenant: str = "") -> OpenRequest | None:
        """The tenant's open request of this id."""
        return self._by_id.get((tenant, request_id))

    def abort(self, request: OpenRequest) -> None:
        """Ends a request with ABORTED, as its caller will see."""
        request.end(Finish(FinishReason.ABORTED))
        self.withdraw(request)

    def close(self, request: OpenRequest) -> None:
        """Its call has ended, so that another may take its place; harmless if repeated."""
        if self._calls.end(request):
            self.withdraw(request)

    def withdraw(self, request: OpenRequest) -> None:
        """Cancels the request at the scheduler, unless the scheduler has ended it; harmless if repeated."""
        if self._requests.get(request.handle) is not request:
            return
        self._forget(request.handle)
        if request in self._held:
            self._held.remove(request)
            return
        if request.cached_tokens is None:
            # The request leaves the queue without starting, so no message about the room need come.
            self._submitted[request.options.tenant] -= 1
        if self._is_open and self._leader is not None:
            self._leader.cancel(request.handle)

    async def drained(self, timeout: float) -> None:
        """Returns when nothing is open any more, or after `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._requests:
                    await self._closed.wait()
                    self._closed.clear()

    def fail_all(self, error: RequestError) -> None:
        """Ends everything open with this error."""
        for request in list(self._requests.values()):
            request.end(error)

    async def run(self) -> NoReturn:
        """Stays connected until cancelled."""
        await self._schedulers.run()

    def _leading(self) -> SchedulerStream:
        if self._leader is None:
            raise Unavailable("no scheduler leads")
        return self._leader

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Returns when the leader's state says so, or another change came between."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._failover_seconds):
                while not is_so():
                    await asyncio.sleep(STATE_SECONDS)

    def _follow(self, leader: SchedulerStream | None) -> None:
        """This scheduler leads from now on, or none does."""
        self._leader, self._is_open = leader, False
        self._state_changed.set()
        self.load = pb.Load()
        if self._lost_at is None and self._requests:
            self._lost_at = time.monotonic()
        if self._failing_over is None and self._state.num_executors:
            loop = asyncio.get_running_loop()
            self._failing_over = loop.call_later(self._failover_seconds, self._give_up)

    def _give_up(self) -> None:
        """No scheduler has come in time that can serve."""
        self._failing_over = self._room = None
        self._full_tenants = frozenset()
        self._set_state(pb.ServingState())

    def _receive(self, message: pb.ConnectResponse) -> None:
        """Takes a message of the leader."""
        if message.HasField("state"):
            self._take_state(message.state)
        elif message.HasField("output"):
            self._take_output(message.output)
        # One that has just begun to lead has no queues yet: what was left of those before counts.
        if message.HasField("queue") and self._is_open:
            self._room = message.queue.room
            self._submitted.clear()
            self._retry_after = message.queue.retry_ms / 1000
            self._full_tenants = frozenset(message.queue.full_tenants)
        if message.HasField("load"):
            self.load = message.load

    def _take_state(self, state: pb.ServingState) -> None:
        self._state_changed.set()
        if self._failing_over is not None:
            if not state.num_executors:
                return  # it has just begun to lead
            self._failing_over.cancel()
            self._failing_over = None
        self._vocab_size = state.vocab_size or self._vocab_size
        self._set_state(state)
        self._open()

    def _open(self) -> None:
        """Submits what is open from before, once per leader."""
        if self.unavailable_reason is None and not self._is_open:
            self._is_open = True
            for request in self._requests.values():
                if request not in self._held:
                    self._enqueue(request)
            if self._lost_at is not None:
                for observer in self._observers:
                    observer.recover(time.monotonic() - self._lost_at)
                self._lost_at = None

    def _adapter(self, options: RequestOptions) -> Adapter | None:
        return find_adapter("adapter", options.adapter, self._adapters)

    def _new(
        self,
        request_id: str,
        prompt: Int32Array,
        params: SamplingParams,
        options: RequestOptions,
        adapter: Adapter | None,
        interval: int = 1,
    ) -> OpenRequest:
        if (name := (options.tenant, request_id)) in self._by_id:
            raise InvalidRequest("request_id", request_id, "must not be that of a running request")
        while self._next_handle in self._requests:
            self._next_handle = (self._next_handle + 1) % 2**31
        request = OpenRequest(
            self._next_handle, request_id, prompt, params, options, interval, self._pace.announce, adapter
        )
        self._next_handle = (self._next_handle + 1) % 2**31
        self._requests[request.handle] = self._by_id[name] = request
        return request

    def _begin(self, request: OpenRequest, arrived: float | None) -> None:
        for observer in self._observers:
            observer.begin(request, time.monotonic() if arrived is None else arrived)

    def _tell(self, requests: Collection[OpenRequest], now: float) -> None:
        for observer in self._observers:
            observer.tell(requests, now)

    def _submit(self, request: OpenRequest, resumed: bool = False) -> None:
        self._submitted[request.options.tenant] += 1
        if not resumed:
            self._fresh.add(request)
        self._enqueue(request)

    def _enqueue(self, request: OpenRequest) -> None:
        if self._is_open and self._leader is not None and not request.is_over:
            resumed, left_ms = request not in self._fresh, self._calls.left_ms(request)
            self._leader.submit(wire.submission_to_proto(request, resumed, left_ms))
            self._fresh.discard(request)

    def _set_state(self, state: pb.ServingState) -> None:
        if state != self._state:
            self._state = state
            self._adapters = {each.name: wire.adapter_from_proto("adapters", each) for each in state.adapters}
            self._state_changed.set()
            if state.num_executors and (reason := self.unavailable_reason):
                logger.error("%s: %s", self._leader, reason)

    def _take_output(self, output: pb.StepOutput) -> None:
        update = wire.step_update_from_proto(output, self._vocab_size)
        queue_seconds = wire.queue_seconds_from_proto(output) if self._observers else []
        update.deliver(self._requests.get)
        for observer in self._observers:
            for (handle, _), seconds in zip(update.started, queue_seconds, strict=True):
                if request := self._requests.get(handle):
                    observer.start(request, seconds)
            observer.step(len(output.token_ids) // 4)
        self._pace.end_step()
        for handle, _ in update.ended:
            self._forget(handle)

    def _forget(self, handle: int) -> OpenRequest | None:
        request = self._requests.pop(handle, None)
        if request is not None:
            for observer in self._observers:
                observer.end(request)
            del self._by_id[request.options.tenant, request.request_id]
            self._fresh.discard(request)
            self._pace.forget(request)
            self._closed.set()
        return request
