"""The dispatcher without processes: who gets a request, and what becomes of one that kills its executors."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from google.rpc import code_pb2

from quire.engine.api.adapter import Adapter
from quire.engine.api.errors import InvalidRequest, RequestError, Unavailable
from quire.engine.api.options import RequestOptions
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.config import SchedulerConfig
from quire.engine.loop import StepLoop
from quire.engine.open_request import Finish
from quire.engine.preparation import AdapterPreparation, StructurePreparation
from quire.engine.request import Request
from quire.engine.resources.ledger.lease import Term
from quire.engine.resources.ledger.memory import MemoryLedger
from quire.engine.resources.ledger.pool_state import PoolIdentity, PoolState
from quire.engine.scheduling.scheduler import Scheduler
from quire.engine.sequence import Sequence
from quire.services.scheduler.attached_executor import TOKENS_PER_ADAPTER, AttachedExecutor
from quire.services.scheduler.dispatcher import MAX_FAULTS, Dispatcher
from quire.services.scheduler.event import Event, EventKind
from quire.services.scheduler.executor_link import ExecutorLink
from quire.services.scheduler.frontend_stream import FrontendStream
from quire.services.scheduler.observer import SchedulerObserver
from support.simulated_executor import SimulatedExecutor, executor_info


async def make_pool(
    dispatcher: Dispatcher, name: str, num_blocks: int = 64, max_waiting_requests: int = 64
) -> AttachedExecutor:
    info = replace(executor_info(num_blocks=num_blocks), num_adapters=2)
    scheduler = Scheduler(SchedulerConfig(max_waiting_requests=max_waiting_requests), info, PoolState(info.num_blocks))
    identity = PoolIdentity(name, info.incarnation, info.fingerprint, info.num_blocks, info.block_size)
    link = ExecutorLink("127.0.0.1:1", Term(1, "one"))
    loop = StepLoop(scheduler, MemoryLedger(), identity, 1, link, dispatcher.deliver)
    await link.close()
    return AttachedExecutor(name, info, scheduler, loop)


def request(handle: int, client: int, prompt: list[int], max_tokens: int = 4, interval: int = 1) -> Request:
    params = SamplingParams(seed=0, max_tokens=max_tokens, ignore_eos=True)
    nothing = np.empty(0, np.int32)
    return Request(str(handle), client, handle, np.array(prompt, np.int32), nothing, params, interval=interval)


async def one_pool() -> tuple[Dispatcher, FrontendStream, AttachedExecutor]:
    """A dispatcher with one frontend and one executor."""
    dispatcher = Dispatcher(epoch=1)
    stream = dispatcher.connect()
    pool = await make_pool(dispatcher, "first")
    dispatcher.attach(pool)
    return dispatcher, stream, pool


async def lose(dispatcher: Dispatcher, pool: AttachedExecutor) -> AttachedExecutor:
    """The executor is gone; another takes its place."""
    dispatcher.detach(pool, pool.scheduler.evacuate())
    pool = await make_pool(dispatcher, "next")
    dispatcher.attach(pool)
    return pool


async def test_a_request_that_kills_executors_ends_and_no_other() -> None:
    dispatcher, stream, pool = await one_pool()
    for handle in (1, 2, 3):
        dispatcher.submit(stream, request(handle, stream.client, [handle, 2, 3], max_tokens=8))
    failed, num_losses = [], 0
    executor = SimulatedExecutor(pool.info)
    while stream.sequences:
        plan = pool.scheduler.schedule()
        assert plan is not None
        if any(start.token_ids[0] == 2 for start in plan.starts):  # whoever computes request 2 dies
            pool, num_losses = await lose(dispatcher, pool), num_losses + 1
            executor = SimulatedExecutor(pool.info)
        else:
            dispatcher.deliver(pool.scheduler.update(executor.execute(plan)))
            failed += [each for message in await stream.next() for each in message.output.failed]
    assert num_losses == MAX_FAULTS + 1
    assert [(each.handle, each.code, each.retryable) for each in failed] == [(2, code_pb2.INTERNAL, False)]


async def test_a_request_that_was_accepted_waits_for_executors_that_are_gone() -> None:
    """They were there when its frontend submitted it again."""
    dispatcher, stream, pool = await one_pool()
    dispatcher.detach(pool, pool.scheduler.evacuate())
    dispatcher.submit(stream, replace(request(1, stream.client, [1, 2, 3]), is_resumed=True))
    dispatcher.submit(stream, request(2, stream.client, [1, 2, 3]))
    failed = [each.handle for message in await stream.next() for each in message.output.failed]
    assert failed == [2]
    dispatcher.submit(stream, replace(request(3, stream.client, [1, 2, 3]), is_resumed=True))
    dispatcher.cancel(stream, 3)
    pool = await make_pool(dispatcher, "next")
    dispatcher.attach(pool)
    assert pool.scheduler.num_waiting == 1
    executor = SimulatedExecutor(pool.info)
    while stream.sequences:
        plan = pool.scheduler.schedule()
        assert plan is not None
        dispatcher.deliver(pool.scheduler.update(executor.execute(plan)))


async def test_losses_with_progress_between_them_do_not_count() -> None:
    dispatcher, stream, pool = await one_pool()
    dispatcher.submit(stream, request(1, stream.client, [1, 2, 3], max_tokens=20))
    for _ in range(3 * MAX_FAULTS):
        plan = pool.scheduler.schedule()
        assert plan is not None
        dispatcher.deliver(pool.scheduler.update(SimulatedExecutor(pool.info).execute(plan)))
        assert pool.scheduler.schedule() is not None
        pool = await lose(dispatcher, pool)
    assert stream.sequences[1].num_faults == 0


async def test_executors_that_drain_are_not_counted_as_lost() -> None:
    dispatcher, stream, pool = await one_pool()
    dispatcher.submit(stream, request(1, stream.client, [1, 2, 3]))
    for _ in range(3 * MAX_FAULTS):
        assert pool.scheduler.schedule() is not None
        dispatcher.drain(pool)
        dispatcher.detach(pool, pool.loop.evacuate())
        pool = await make_pool(dispatcher, "next")
        dispatcher.attach(pool)
    assert stream.sequences[1].num_faults == 0


async def test_what_grammars_need_is_loaded_wherever_a_request_may_go_on() -> None:
    dispatcher, stream, first = await one_pool()
    other = await make_pool(dispatcher, "other")
    dispatcher.attach(other)
    structure = StructuredOutput(regex="a")
    asked = request(1, stream.client, [1, 2, 3])
    asked = replace(asked, params=replace(asked.params, structured_output=structure))
    dispatcher.submit(stream, asked)
    come = await make_pool(dispatcher, "come")
    dispatcher.attach(come)
    untried = StructurePreparation(structure, is_tried=False)
    assert [pool.scheduler.take_preparations() for pool in (first, other, come)] == [[untried]] * 3
    # One is enough: what compiles the others is loaded then.
    other.scheduler.begin_structures(StructuredOutput(regex="b"))
    other.scheduler.is_prepared(untried)
    other.scheduler.begin_structures(StructuredOutput(regex="b"))
    assert other.scheduler.take_preparations() == []
    # The others have not loaded it yet.
    for handle in range(2, 6):
        dispatcher.submit(stream, replace(asked, handle=handle))
    assert (other.scheduler.num_waiting, come.scheduler.num_waiting) == (4, 0)
    # One that comes now need not try what another has compiled.
    last = await make_pool(dispatcher, "last")
    dispatcher.attach(last)
    assert last.scheduler.take_preparations() == [StructurePreparation(structure, is_tried=True)]


async def test_cost_is_prefill_left_and_load() -> None:
    dispatcher = Dispatcher(epoch=1)
    stream = dispatcher.connect()
    pools = [await make_pool(dispatcher, name) for name in ("a", "b")]
    for pool in pools:
        dispatcher.attach(pool)
    prompt = [1, 2, 3] * 5
    dispatcher.submit(stream, request(1, stream.client, prompt))
    first, other = sorted(pools, key=lambda pool: pool.scheduler.num_waiting, reverse=True)
    assert (first.scheduler.num_waiting, other.scheduler.num_waiting) == (1, 0)
    dispatcher.submit(stream, request(2, stream.client, [4, 5, 6]))
    assert other.scheduler.num_waiting == 1, "the load counts"
    for pool in pools:
        executor = SimulatedExecutor(pool.info)
        while (plan := pool.scheduler.schedule()) is not None:
            dispatcher.deliver(pool.scheduler.update(executor.execute(plan)))
    dispatcher.submit(stream, request(3, stream.client, [*prompt, 6]))
    assert first.scheduler.num_waiting == 1, "the prefix is there"
    dispatcher.drain(first)
    assert (first.scheduler.num_waiting, other.scheduler.num_waiting) == (0, 1), "what waits goes elsewhere"
    dispatcher.submit(stream, request(4, stream.client, [*prompt, 6]))
    assert other.scheduler.num_waiting == 2


async def test_requests_go_where_their_adapter_lies() -> None:
    """Unless so much waits there that loading it elsewhere is less."""
    dispatcher = Dispatcher(epoch=1)
    stream = dispatcher.connect()
    pools = [await make_pool(dispatcher, name) for name in ("a", "b")]
    for pool in pools:
        dispatcher.attach(pool)
    adapter = Adapter("tuned", "/tuned", "d")
    length = TOKENS_PER_ADAPTER * 2 // 5
    named = replace(request(1, stream.client, [1] * length), adapter=adapter)
    dispatcher.submit(stream, named)
    first, other = sorted(pools, key=lambda pool: pool.scheduler.num_waiting, reverse=True)
    (preparation,) = first.scheduler.take_preparations()
    first.scheduler.is_prepared(preparation)
    for handle in (2, 3):
        dispatcher.submit(stream, replace(named, handle=handle))
        assert other.scheduler.num_waiting == 0
    dispatcher.submit(stream, replace(named, handle=4))
    assert (first.scheduler.num_waiting, other.scheduler.num_waiting) == (3, 1)
    assert other.scheduler.take_preparations() == [AdapterPreparation(adapter, 0)]


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        # The first token, then as many as may wait, then the end.
        ([4], [1, 4, 4, 1]),
        ([1], [1] * 10),
        ([16], [1, 9]),
        # Whoever waits least sends the tokens of all.
        ([4, 2], [2, 4, 4, 4, 4, 2]),
    ],
)
async def test_tokens_wait_as_long_as_their_requests_allow(intervals: list[int], expected: list[int]) -> None:
    dispatcher, stream, pool = await one_pool()
    await stream.next()
    for handle, interval in enumerate(intervals):
        dispatcher.submit(stream, request(handle, stream.client, [1, 2, 3], 10, interval))
    executor, counts = SimulatedExecutor(pool.info), []
    while (plan := pool.scheduler.schedule()) is not None:
        dispatcher.deliver(pool.scheduler.update(executor.execute(plan)))
        updates = asyncio.ensure_future(stream.next())
        await asyncio.sleep(0)
        if updates.done():
            counts += [len(message.output.token_ids) // 4 for message in updates.result()]
        updates.cancel()
    assert counts == expected
    assert not stream.sequences


async def test_a_request_that_waits_for_an_executor_can_be_cancelled() -> None:
    dispatcher, stream, pool = await one_pool()
    for handle in (1, 2):
        dispatcher.submit(stream, request(handle, stream.client, [1, 2, 3]))
    dispatcher.drain(pool)
    dispatcher.cancel(stream, 1)
    other = await make_pool(dispatcher, "other")
    dispatcher.attach(other)
    assert other.scheduler.num_waiting == 1
    dispatcher.disconnect(stream)
    assert other.scheduler.num_waiting == 0


async def test_executors_that_compute_otherwise_are_left_out() -> None:
    """A sequence could begin on one and go on at another."""
    dispatcher = Dispatcher(epoch=1)
    first, other = await make_pool(dispatcher, "first"), await make_pool(dispatcher, "other")
    other.info = replace(other.info, fingerprint="another model")
    dispatcher.attach(first)
    with pytest.raises(Unavailable, match=r"executor other is left out: .* executor first"):
        dispatcher.attach(other)
    stream = dispatcher.connect()
    for handle in range(4):
        dispatcher.submit(stream, request(handle, stream.client, [1, 2, 3]))
    assert (first.scheduler.num_waiting, other.scheduler.num_waiting) == (4, 0)
    dispatcher.detach(first, first.scheduler.evacuate())
    dispatcher.attach(other)
    assert dispatcher.is_serving


async def test_what_is_open_ends_and_nothing_begins_before_the_scheduler_does() -> None:
    dispatcher, stream, pool = await one_pool()
    for handle in (1, 2):
        dispatcher.submit(stream, request(handle, stream.client, [1, 2, 3], max_tokens=3))
    finished = asyncio.create_task(dispatcher.finished())
    await asyncio.sleep(0)
    dispatcher.submit(stream, request(3, stream.client, [1, 2, 3]))
    failed = [each for message in await stream.next() for each in message.output.failed]
    assert [(each.handle, each.code, each.retryable) for each in failed] == [(3, code_pb2.UNAVAILABLE, True)]
    dispatcher.cancel(stream, 1)
    executor = SimulatedExecutor(pool.info)
    while stream.sequences:
        assert not finished.done()
        plan = pool.scheduler.schedule()
        assert plan is not None
        dispatcher.deliver(pool.scheduler.update(executor.execute(plan)))
    await finished


async def test_a_scheduler_with_nothing_open_ends_at_once() -> None:
    dispatcher, _, _ = await one_pool()
    await dispatcher.finished()


async def test_a_handle_means_one_request() -> None:
    dispatcher, stream, pool = await one_pool()
    dispatcher.submit(stream, request(1, stream.client, [1, 2, 3]))
    with pytest.raises(InvalidRequest, match="handle: must not be open already, got 1"):
        dispatcher.submit(stream, request(1, stream.client, [1, 2, 3]))
    dispatcher.disconnect(stream)
    assert pool.scheduler.num_waiting == 0


async def test_a_request_goes_on_only_where_it_fits() -> None:
    dispatcher = Dispatcher(epoch=1)
    stream = dispatcher.connect()
    large, small = [await make_pool(dispatcher, name, size) for name, size in (("large", 64), ("small", 4))]
    for pool in (large, small):
        dispatcher.attach(pool)
    dispatcher.submit(stream, request(1, stream.client, [1] * 40 * large.info.block_size))
    assert large.scheduler.num_waiting == 1
    dispatcher.detach(large, large.scheduler.evacuate())
    assert small.scheduler.num_waiting == 0
    again = await make_pool(dispatcher, "large", 64)
    dispatcher.attach(again)
    assert again.scheduler.num_waiting == 1


async def test_executors_of_other_tokenizers_are_left_out() -> None:
    dispatcher, stream, pool = await one_pool()
    with_tokenizer = replace(pool.info, tokenizer_fingerprint="a")
    # Without one it takes part in what others decide.
    dispatcher.admit("second", with_tokenizer)
    second = await make_pool(dispatcher, "second")
    second.info = with_tokenizer
    dispatcher.attach(second)
    state = next(message.state for message in await stream.next() if message.HasField("state"))
    assert state.tokenizer_fingerprint == "a"
    with pytest.raises(Unavailable, match="its tokenizer is not that of executor second"):
        dispatcher.admit("third", replace(pool.info, tokenizer_fingerprint="b"))


async def test_frontends_are_told_what_the_queues_take() -> None:
    dispatcher = Dispatcher(epoch=1)
    stream, other = dispatcher.connect(), dispatcher.connect()
    dispatcher.attach(await make_pool(dispatcher, "first", max_waiting_requests=2))
    rooms = [[message.queue.room for message in await each.next()] for each in (stream, other)]
    assert rooms == [[2], [2]]
    for handle in range(3):
        dispatcher.submit(stream, request(handle, stream.client, [1, 2, 3]))
    (message,) = await stream.next()
    assert [(each.handle, each.code) for each in message.output.failed] == [(2, code_pb2.RESOURCE_EXHAUSTED)]
    assert message.output.failed[0].retry_ms == message.queue.retry_ms >= 1000
    assert message.queue.room == 0
    # Whom nothing is sent to learns it at once, and that there is room again.
    assert [each.queue.room for each in await other.next()] == [0]
    dispatcher.cancel(stream, 0)
    for each in (stream, other):
        assert [message.queue.room for message in await each.next()] == [1]


async def test_frontends_are_told_which_tenants_have_more_than_their_share() -> None:
    dispatcher = Dispatcher(epoch=1)
    stream, other = dispatcher.connect(), dispatcher.connect()
    for name in ("first", "second"):
        dispatcher.attach(await make_pool(dispatcher, name, max_waiting_requests=4))
    await other.next()
    for handle in range(7):
        options = RequestOptions(tenant="flood" if handle < 6 else "polite")
        dispatcher.submit(stream, replace(request(handle, stream.client, [1, 2, 3]), options=options))
    # Three on each executor.
    assert [list(each.queue.full_tenants) for each in await other.next()] == [["flood"]]
    assert not [each for message in await stream.next() for each in message.output.failed]
    dispatcher.submit(stream, replace(request(7, stream.client, [1, 2, 3]), options=RequestOptions(tenant="flood")))
    (message,) = await stream.next()
    assert [(each.handle, each.code) for each in message.output.failed] == [(7, code_pb2.RESOURCE_EXHAUSTED)]
    for handle in (0, 2):
        dispatcher.cancel(stream, handle)
    assert [list(each.queue.full_tenants) for each in await other.next()] == [[]]


async def test_requests_submitted_again_are_bounded_by_what_could_have_been_accepted() -> None:
    dispatcher, stream, pool = await one_pool()
    most = 2 * (64 + pool.info.max_batch_size)
    for handle in range(most + 10):
        dispatcher.submit(stream, replace(request(handle, stream.client, [1, 2, 3]), is_resumed=True))
    assert len(stream.sequences) == most
    failed = [each for message in await stream.next() for each in message.output.failed]
    assert [each.code for each in failed] == [code_pb2.RESOURCE_EXHAUSTED] * 10


@pytest.mark.parametrize("generated", [[-1], [7], [1] * 5])
async def test_generated_tokens_that_cannot_be_are_refused(generated: list[int]) -> None:
    dispatcher, stream, _ = await one_pool()
    bad = replace(request(1, stream.client, [1, 2, 3]), generated=np.array(generated, np.int32))
    dispatcher.submit(stream, bad)
    failed = [each for message in await stream.next() for each in message.output.failed]
    assert [each.code for each in failed] == [code_pb2.INVALID_ARGUMENT]
    assert failed[0].message.startswith("generated")


class Recorder(SchedulerObserver):
    """Lists what it is told, as words."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.events: list[Event] = []

    def refuse(self, request: Request, error: RequestError) -> None:
        self.requests.append(f"{request.handle} refused: {type(error).__name__}")

    def begin(self, sequence: Sequence) -> None:
        self.requests.append(f"{sequence.request.handle} begins")

    def start(self, sequence: Sequence) -> None:
        self.requests.append(f"{sequence.request.handle} starts")

    def end(self, sequence: Sequence, outcome: Finish | RequestError | None) -> None:
        ending = outcome.reason.name if isinstance(outcome, Finish) else outcome
        self.requests.append(f"{sequence.request.handle} ends: {ending}")

    def notice(self, event: Event) -> None:
        self.events.append(event)


async def test_observers_are_told_of_requests_and_of_a_loss_that_is_over() -> None:
    recorder = Recorder()
    dispatcher = Dispatcher(epoch=1, observers=[recorder])
    stream = dispatcher.connect()
    dispatcher.submit(stream, request(9, stream.client, [1]))
    pool = await make_pool(dispatcher, "first")
    dispatcher.attach(pool)
    for handle in (1, 2):
        dispatcher.submit(stream, request(handle, stream.client, [handle, 2, 3], max_tokens=2))
    dispatcher.submit(stream, request(3, stream.client, [1]))
    dispatcher.cancel(stream, 3)
    assert pool.scheduler.schedule() is not None
    dispatcher.submit(stream, request(4, stream.client, [4], max_tokens=1))
    pool = await lose(dispatcher, pool)
    assert recorder.requests == [
        "9 refused: Unavailable", "1 begins", "2 begins", "3 begins", "3 ends: None", "4 begins",
    ]  # fmt: skip
    recorder.requests.clear()
    executor = SimulatedExecutor(pool.info)
    while (plan := pool.scheduler.schedule()) is not None:
        dispatcher.deliver(pool.scheduler.update(executor.execute(plan)))
    assert sorted(recorder.requests) == [
        "1 ends: LENGTH", "1 starts", "2 ends: LENGTH", "2 starts", "4 ends: LENGTH", "4 starts",
    ]  # fmt: skip
    assert [(event.kind, event.subject) for event in recorder.events] == [
        (EventKind.EXECUTOR_ATTACHED, "first"),
        (EventKind.EXECUTOR_ATTACHED, "next"),
        # Once, when the last of those that ran there goes on; what had waited does not count.
        (EventKind.REQUESTS_RECOVERED, "first"),
    ]
    assert recorder.events[-1].seconds is not None
