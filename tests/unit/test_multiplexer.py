"""A `Multiplexer` whose calls end when a test says so."""

import asyncio
from typing import Any

import pytest

from quire.clients.multiplexer import Multiplexer
from quire.engine.api.errors import Unavailable
from quire.v1 import inference_pb2 as pb


class Call:
    """Answers each request with a finished response, unless its text is "never"."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[pb.GenerateManyResponse | None] = asyncio.Queue()

    async def write(self, request: pb.GenerateManyRequest) -> None:
        if request.generate.text != "never":
            response = pb.GenerateStreamResponse(text=request.generate.text, finish=pb.Finish())
            part = pb.GenerateManyPart(number=request.number, response=response)
            self._answers.put_nowait(pb.GenerateManyResponse(parts=[part]))

    def __aiter__(self) -> "Call":
        return self

    async def __anext__(self) -> pb.GenerateManyResponse:
        answer = await self._answers.get()
        if answer is None:
            raise StopAsyncIteration
        return answer

    def end(self) -> None:
        self._answers.put_nowait(None)

    def cancel(self) -> None:
        pass


class Stub:
    def __init__(self) -> None:
        self.calls: list[Call] = []

    def GenerateMany(self, metadata: tuple[tuple[str, str], ...]) -> Call:
        self.calls.append(Call())
        return self.calls[-1]


async def answer(multiplexer: Multiplexer, text: str) -> str:
    responses = multiplexer.stream(pb.GenerateRequest(text=text), None)
    return "".join([response.text async for response in responses])


async def test_a_stream_that_begins_as_a_call_ends_has_a_call_of_its_own() -> None:
    """The end is told a moment after it has come: only to those that were there."""
    stub: Any = Stub()
    multiplexer = Multiplexer(stub)
    waiting = asyncio.create_task(answer(multiplexer, "never"))
    assert await answer(multiplexer, "first") == "first"
    stub.calls[0].end()
    assert multiplexer._newest is not None
    while not multiplexer._newest.task.done():
        await asyncio.sleep(0)
    assert await answer(multiplexer, "second") == "second"
    with pytest.raises(Unavailable, match="the frontend has ended the call"):
        await waiting
    assert len(stub.calls) == 2
    await multiplexer.close()
