"""A `Multiplex` of requests that bring what the tests say, and end as they say."""

import asyncio
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty
from google.rpc import code_pb2

from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import Overloaded, RequestError
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.engine.open_request import Finish, OpenRequest
from quire.engine.text.tokenizer import Tokenizer
from quire.services.frontend import multiplex
from quire.services.frontend.call import UNTRACED, Call, rpc
from quire.services.frontend.multiplex import Multiplex
from quire.v1 import inference_pb2 as pb

TOKEN = 300


class Bench:
    """The frontend's work without a scheduler; requests are known by their texts.

    A text "slow" takes until `may_open`, "bug" and "full" fail, others are open until the test ends them.
    """

    def __init__(self) -> None:
        self.tokenizer: Any = Tokenizer.load(DEMO_MODEL)
        self.open: dict[str, OpenRequest] = {}
        self.may_open, self.drain = asyncio.Event(), asyncio.Event()
        self.num_asked = 0
        self.refusals: list[str] = []
        self.multiplex = Multiplex(self, self.begin, self.submit)  # type: ignore[arg-type]

    def tell_refusal(self, error: RequestError) -> None:
        self.refusals.append(str(error))

    def begin(self, request: pb.GenerateRequest) -> Call:
        return UNTRACED.begin(rpc("GenerateMany"), request.request_id, None)

    async def submit(self, request: pb.GenerateRequest, call: Call) -> OpenRequest:
        self.num_asked += 1
        match request.text:
            case "bug":
                raise KeyError("a bug")
            case "full":
                raise Overloaded("too many", 2.5)
            case "slow":
                await self.may_open.wait()
        opened = OpenRequest(len(self.open), request.text, np.array([5], np.int32), SamplingParams())
        self.open[request.text] = opened
        return opened

    def close(self, request: OpenRequest) -> None:
        del self.open[request.request_id]

    async def draining(self) -> None:
        await self.drain.wait()

    def push(self, text: str, count: int = 1) -> None:
        for _ in range(count):
            self.open[text].push(TOKEN)

    def finish(self, *texts: str) -> None:
        for text in texts:
            self.open[text].end(Finish(FinishReason.LENGTH))


def message(number: int, text: str) -> pb.GenerateManyRequest:
    """ "cancel" cancels."""
    if text == "cancel":
        return pb.GenerateManyRequest(number=number, cancel=Empty())
    return pb.GenerateManyRequest(number=number, generate=pb.GenerateRequest(text=text))


async def sent(*requests: tuple[int, str], stays: bool = True) -> AsyncIterator[pb.GenerateManyRequest]:
    """All are there at once; the client's side stays open."""
    for request in requests:
        yield message(*request)
    if stays:
        await asyncio.Event().wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def begun(bench: Bench, *requests: tuple[int, str], stays: bool = True) -> Any:
    """The answers, and the first of them as a task that waits."""
    answers = bench.multiplex.run(sent(*requests, stays=stays))
    first = asyncio.create_task(anext(answers))
    await settled()
    return SimpleNamespace(all=answers, first=first)


def outline(response: pb.GenerateManyResponse) -> dict[int, object]:
    """Of each part the number of its tokens, "end" behind the last, or the failure's code."""
    return {
        part.number: part.failure.code
        if part.HasField("failure")
        else (len(part.response.token_ids), "end")
        if part.response.HasField("finish")
        else len(part.response.token_ids)
        for part in response.parts
    }


async def test_a_message_has_all_that_came_before_it() -> None:
    bench = Bench()
    answers = await begun(bench, (1, "a"), (2, "b"), (3, "c"))
    bench.push("a")
    bench.push("c")
    assert outline(await answers.first) == {1: 1, 3: 1}
    # Nobody reads meanwhile.
    bench.push("a", 3)
    bench.push("b", 2)
    await settled()
    bench.push("a")
    bench.finish("b")
    assert outline(await anext(answers.all)) == {1: 4, 2: (2, "end")}
    bench.finish("a", "c")
    assert outline(await anext(answers.all)) == {1: (0, "end"), 3: (0, "end")}
    assert not bench.open
    await answers.all.aclose()


async def test_a_large_message_is_cut_between_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiplex, "MESSAGE_BYTES", 100)
    bench = Bench()
    answers = await begun(bench, (1, "a"), (2, "b"), (3, "c"))
    for text in "abc":
        bench.push(text, 60)
    found = [outline(await answers.first), outline(await anext(answers.all)), outline(await anext(answers.all))]
    assert found == [{1: 60}, {2: 60}, {3: 60}]
    await answers.all.aclose()


async def test_what_came_before_the_call_was_told_is_not_lost() -> None:
    bench = Bench()
    answers = await begun(bench, (1, "slow"))
    bench.may_open.set()
    while "slow" not in bench.open:
        await asyncio.sleep(0)
    bench.push("slow", 2)
    bench.finish("slow")
    assert outline(await answers.first) == {1: (2, "end")}
    await answers.all.aclose()


async def test_failures_end_one_request_each(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    answers = await begun(bench, (1, "bug"), (2, "full"), (3, "a"))
    response = await answers.first
    assert outline(response) == {1: code_pb2.UNKNOWN, 2: code_pb2.RESOURCE_EXHAUSTED}
    assert response.parts[1].failure.retry_delay.ToTimedelta().total_seconds() == 2.5
    assert [(record.levelno, "request 1 of" in record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, True)
    ]
    bench.open["a"].end(Overloaded("later", 1.0))
    assert outline(await anext(answers.all)) == {3: code_pb2.RESOURCE_EXHAUSTED}
    assert bench.refusals == ["too many", "later"]
    await answers.all.aclose()


async def test_a_bug_in_the_text_ends_one_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[int]:
        raise KeyError("a bug")

    bench = Bench()
    answers = await begun(bench, (1, "a"), (2, "b"))
    monkeypatch.setattr(bench.open["a"], "take", broken)
    bench.push("a")
    bench.push("b")
    assert outline(await answers.first) == {1: code_pb2.UNKNOWN, 2: 1}
    assert list(bench.open) == ["b"]
    assert len(caplog.records) == 1
    await answers.all.aclose()


async def test_requests_are_cancelled_at_any_time() -> None:
    """One that has not begun, one that is tokenized, one that runs, and one that is not there."""
    bench = Bench()
    requests = (1, "slow"), (2, "a"), (2, "cancel"), (1, "cancel"), (7, "cancel"), (3, "b")
    answers = await begun(bench, *requests)
    assert outline(await answers.first) == {1: code_pb2.CANCELLED, 2: code_pb2.CANCELLED}
    assert list(bench.open) == ["b"]
    await answers.all.aclose()
    assert not bench.open


async def test_a_running_request_is_cancelled() -> None:
    bench, requests = Bench(), asyncio.Queue[pb.GenerateManyRequest]()

    async def later() -> AsyncIterator[pb.GenerateManyRequest]:
        while True:
            yield await requests.get()

    answers = bench.multiplex.run(later())
    requests.put_nowait(message(1, "a"))
    first = asyncio.create_task(anext(answers))
    await settled()
    bench.push("a")
    assert outline(await first) == {1: 1}
    bench.push("a")
    requests.put_nowait(message(1, "cancel"))
    await settled()
    assert outline(await anext(answers)) == {1: code_pb2.CANCELLED}
    assert not bench.open
    await answers.aclose()


@pytest.mark.parametrize("way", ["closed", "drained"])
async def test_the_call_ends_when_nothing_can_come_any_more(way: str) -> None:
    bench = Bench()
    answers = await begun(bench, (1, "a"), (2, "slow"), stays=way == "drained")
    if way == "drained":
        bench.drain.set()
    bench.finish("a")
    assert outline(await answers.first) == {1: (0, "end")}
    rest = asyncio.create_task(anext(answers.all, None))
    await settled()
    assert not rest.done()
    bench.may_open.set()
    await settled()
    bench.finish("slow")
    assert outline(await rest) == {2: (0, "end")}
    assert await anext(answers.all, None) is None


@pytest.mark.parametrize("way", ["closed", "drained"])
async def test_an_idle_call_ends(way: str) -> None:
    bench = Bench()
    answers = bench.multiplex.run(sent(stays=way == "drained"))
    first = asyncio.create_task(anext(answers, None))
    await settled()
    if way == "drained":
        bench.drain.set()
    async with asyncio.timeout(60):
        assert await first is None


async def test_a_call_that_is_given_up_leaves_nothing() -> None:
    bench = Bench()
    answers = await begun(bench, (1, "a"), (2, "slow"))
    bench.push("a")
    await answers.first
    await answers.all.aclose()
    assert not bench.open
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("text", ["full", "slow"])
async def test_who_does_not_read_is_not_read_from(text: str) -> None:
    bench = Bench()

    async def endless() -> AsyncIterator[pb.GenerateManyRequest]:
        for number in range(10**9):
            yield message(number, "full" if number == 0 else text)
            await asyncio.sleep(0)

    answers = bench.multiplex.run(endless())
    num_read = len((await anext(answers)).parts)
    await settled()
    assert bench.num_asked <= num_read + 2 * multiplex.MAX_PENDING
    before = bench.num_asked
    if text == "full":
        num_read += len((await anext(answers)).parts)
        reading = asyncio.create_task(anext(answers))
        await settled()
        assert bench.num_asked > before
        await reading
    await answers.aclose()
