"""Forged messages, from a peer with certificate and token: a status and a line for each, and services live on."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from quire.clients.client import Client
from quire.engine.api.adapter import Adapter
from quire.engine.api.sampling import SamplingParams
from quire.engine.api.structured_output import StructuredOutput
from quire.engine.preparation import AdapterPreparation, StructurePreparation
from quire.engine.resources.ledger.audit import audit
from quire.engine.resources.ledger.redis import RedisLedger
from quire.internal.v1 import executor_pb2 as executor
from quire.internal.v1 import scheduler_pb2 as scheduler
from quire.protos.channel import CHANNEL_OPTIONS
from quire.protos.credentials import Credentials, open_aio_channel
from quire.services.common import wire
from support.forgers import INVALID, ForgedFrontend, ForgedScheduler
from support.forgery import endless_forgeries, forgeries
from support.internal_messages import good_plans, good_submission
from support.secured_stack import Secured, until_serving

MessageT = TypeVar("MessageT", bound=Message)

SECONDS = 60.0
PROMPT = "def fibonacci(n):"
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
# For each kind of message, of which there are five.
FEW, MANY = 30, 4_000
METHODS = {
    "executor": ("ExecutorService/Execute",),
    "scheduler": ("SchedulerService/Connect", "SchedulerService/GetStatistics", "SchedulerService/Watch"),
}
EXPECTED = {grpc.StatusCode.OK, INVALID}
UNREADABLE = (b"\xff" * 9, b"\x0a\x7fabc", b"\x0c" * 5_000)


def some(good: MessageT, count: int) -> Iterator[MessageT]:
    """So many forgeries: every field at each extreme and more, or as few of these as are asked for."""
    found, chance = list(forgeries(good)), random.Random(5)
    if count < len(found):
        found = chance.sample(found, count)
    yield from (each.message for each in found)
    yield from (each.message for each in islice(endless_forgeries(good, chance), count - len(found)))


def num_refused(secured: Secured, name: str) -> int:
    return sum("is refused: " in line for line in secured.log(name).splitlines())


async def until_refused(secured: Secured, name: str, wanted: int) -> int:
    """How many were refused, once so many lines are there, or after a while: a line may come behind its answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            while num_refused(secured, name) < wanted:
                await asyncio.sleep(0.05)
    return num_refused(secured, name)


def answer(secured: Secured) -> list[int]:
    with Client(secured.frontend, timeout=SECONDS, credentials=secured.client()) as client:
        return list(client.generate(PROMPT, GREEDY).token_ids)


async def forge_executor(secured: Secured, count: int) -> None:
    adapter = Adapter("a", "/nowhere", "f" * 64)
    prepares = [
        executor.ExecuteRequest(prepare=prepare)
        for prepare in (
            wire.prepare_to_proto(1, StructurePreparation(StructuredOutput(regex="[a-z]+"), is_tried=False)),
            wire.prepare_to_proto(1, AdapterPreparation(adapter, 0)),
            wire.examine_to_proto(1, adapter.name, adapter.path),
        )
    ]
    first, second = (executor.ExecuteRequest(plan=plan) for plan in good_plans(1))
    attach = executor.ExecuteRequest(attach=executor.Attach(epoch=2**40, leader="a"))
    known = secured.known()
    async with open_aio_channel(secured.executor, CHANNEL_OPTIONS, known) as channel:
        forger, before = ForgedScheduler(channel, known.metadata), num_refused(secured, "executor")
        for forged in some(attach, 20 + count // 10):
            await forger.attach(forged)
        for good in (*([prepare] for prepare in prepares), [first], [first, second]):
            for forged in some(good[-1], count):
                await forger.send(good[:-1], forged)
    outcomes = forger.outcomes
    assert outcomes.codes.keys() <= {*EXPECTED, grpc.StatusCode.FAILED_PRECONDITION}, outcomes
    assert outcomes.codes[INVALID] > count
    wanted = before + outcomes.num_lines
    assert await until_refused(secured, "executor", wanted) == wanted


async def forge_scheduler(secured: Secured, count: int) -> None:
    good = scheduler.ConnectRequest(frontend="a", submissions=[good_submission(1), good_submission(2)], cancels=[2, 3])
    known = secured.known()
    async with open_aio_channel(secured.scheduler, CHANNEL_OPTIONS, known) as channel:
        forger, before = ForgedFrontend(channel, known.metadata), num_refused(secured, "scheduler")
        for forged in some(good, 2 * count):
            await forger.send(forged)
    outcomes = forger.outcomes
    assert outcomes.codes.keys() <= EXPECTED, outcomes
    assert outcomes.num_lines > 2 * count
    wanted = before + outcomes.num_lines
    assert wanted <= await until_refused(secured, "scheduler", wanted) <= wanted + outcomes.num_unsaid


async def code_of(channel: grpc.aio.Channel, method: str, payload: bytes, known: Credentials) -> grpc.StatusCode:
    call: Any = channel.unary_stream(f"/quire.internal.v1.{method}")
    call = call(payload, metadata=known.metadata, timeout=SECONDS)
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    code: grpc.StatusCode = await call.code()
    return code


async def send_unreadable(secured: Secured, name: str, address: str) -> None:
    known, before = secured.known(), num_refused(secured, name)
    async with open_aio_channel(address, CHANNEL_OPTIONS, known) as channel:
        for method in METHODS[name]:
            for payload in UNREADABLE:
                assert await code_of(channel, method, payload, known) is INVALID
    wanted = before + len(METHODS[name]) * len(UNREADABLE)
    assert await until_refused(secured, name, wanted) == wanted


async def forge(secured: Secured, count: int) -> None:
    """The scheduler is frozen while the executor gets its forgeries: each would displace the other there.

    An answer shows that the scheduler leads again before it gets its own.
    """
    with secured.frozen("scheduler"):
        await forge_executor(secured, count)
        await send_unreadable(secured, "executor", secured.executor)
    await until_serving(secured.frontend, secured.client())
    await asyncio.to_thread(answer, secured)
    await forge_scheduler(secured, count)
    await send_unreadable(secured, "scheduler", secured.scheduler)


async def assert_sound(secured: Secured) -> None:
    """Nothing is held, and the books are right."""
    ledger = RedisLedger.connect(secured.redis_url)
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                found = await ledger.snapshot(secured.executor)
                assert found is not None
                if not found[1].holds:
                    break
                await asyncio.sleep(0.05)
        assert audit(found[1], found[0].num_groups) == []
    finally:
        await ledger.close()


def check(secured: Secured, count: int) -> None:
    before = answer(secured)
    asyncio.run(forge(secured, count))
    assert answer(secured) == before
    asyncio.run(assert_sound(secured))
    assert {name: process.poll() for name, process in secured.processes.items()} == dict.fromkeys(secured.processes)
    for name in secured.processes:
        assert "Traceback" not in secured.log(name), name


def test_services_live_on(secured: Secured) -> None:
    check(secured, FEW)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_services_live_on_behind_20_000(secured: Secured) -> None:
    check(secured, MANY)


async def test_a_frontends_ports_know_no_internal_calls(secured: Secured) -> None:
    for credentials in (secured.client(), secured.client("nobody")):
        async with open_aio_channel(secured.frontend, CHANNEL_OPTIONS, credentials) as channel:
            for method in (*METHODS["executor"], *METHODS["scheduler"]):
                assert await code_of(channel, method, b"", credentials) is grpc.StatusCode.UNIMPLEMENTED
            code = await code_of(channel, "WorkerService/GetMetrics", b"", credentials)
            assert code is grpc.StatusCode.PERMISSION_DENIED
