"""What a `Multiplex` makes of requests that end in unforeseen ways."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from google.protobuf.empty_pb2 import Empty
from google.rpc import code_pb2

from quire.services.frontend import multiplex
from quire.services.frontend.multiplex import Multiplex
from quire.v1 import inference_pb2 as pb


async def follow(request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
    if request.text == "bug":
        raise KeyError("a bug")
    if request.text == "never":
        await asyncio.Event().wait()
    yield pb.GenerateStreamResponse(text=request.text)
    yield pb.GenerateStreamResponse(finish=pb.Finish())


async def each(*requests: tuple[int, str]) -> AsyncIterator[pb.GenerateManyRequest]:
    """ "cancel" cancels; all are there at once."""
    for number, text in requests:
        if text == "cancel":
            yield pb.GenerateManyRequest(number=number, cancel=Empty())
        else:
            yield pb.GenerateManyRequest(number=number, generate=pb.GenerateRequest(text=text))


async def test_a_bug_ends_one_request_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    messages = [message async for message in Multiplex(follow).run(each((1, "bug"), (2, "fine")))]
    parts = [part for message in messages for part in message.parts]
    assert [part.response.text for part in parts if part.number == 2] == ["fine", ""]
    assert [part.failure.code for part in parts if part.number == 1] == [code_pb2.UNKNOWN]
    assert "KeyError: 'a bug'" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_one_is_cancelled_before_it_has_begun() -> None:
    requests = each((1, "never"), (1, "cancel"), (2, "never"), (2, "cancel"), (3, "fine"))
    async with asyncio.timeout(5):
        messages = [message async for message in Multiplex(follow).run(requests)]
    parts = [part for message in messages for part in message.parts]
    failures = {part.number: part.failure.code for part in parts if part.HasField("failure")}
    assert failures == {1: code_pb2.CANCELLED, 2: code_pb2.CANCELLED}
    assert len(parts) == 4


async def test_a_call_that_is_given_up_leaves_no_task() -> None:
    answers = Multiplex(follow).run(each((1, "never"), (2, "fine")))
    assert [part.number for part in (await anext(answers)).parts] == [2, 2]
    await answers.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_who_does_not_read_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiplex, "MAX_PARTS", 10)
    num_sent = 0

    async def endless() -> AsyncIterator[pb.GenerateManyRequest]:
        nonlocal num_sent
        while True:
            num_sent += 1
            yield pb.GenerateManyRequest(number=num_sent, generate=pb.GenerateRequest(text="bug"))
            await asyncio.sleep(0)

    answers = Multiplex(follow).run(endless())
    num_read = len((await anext(answers)).parts)
    for _ in range(100):
        await asyncio.sleep(0)
    assert num_sent <= num_read + 15
    num_read += len((await anext(answers)).parts)
    assert 10 < num_read <= num_sent
    await answers.aclose()
