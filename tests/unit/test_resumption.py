"""Streams that break off: they go on where they were, or fail as they should."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.clients.async_client import AsyncClient
from quire.clients.client import Client
from quire.clients.resumption import MAX_FAILURES, Resumption, with_seed
from quire.engine.api.completion import Completion, FinishReason, join
from quire.engine.api.errors import QuireError, Unavailable
from quire.engine.api.logprobs import TokenLogprobs
from quire.engine.api.sampling import SamplingParams
from quire.protos.channel import SERVICE_CONFIG
from quire.services.up.ports import LOOPBACK
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

GREEDY = SamplingParams(temperature=0)
LETTERS = "abcdefghij"
FAULT = Unavailable("the frontend is gone")
ANSWER = pb.GenerateResponse(text=LETTERS, finish=pb.Finish(reason=pb.FINISH_REASON_LENGTH, usage=pb.Usage()))


def pieces_of(cuts: list[int], lag: int) -> list[Completion]:
    """LETTERS in pieces that end at these tokens; the text comes so many letters late."""
    pieces, begin, shown = [], 0, 0
    for end in (*sorted(set(cuts) - {0, 10}), 10):
        visible = end if end == 10 else max(shown, end - lag)
        logprobs = tuple(TokenLogprobs(-float(token), 1, ()) for token in range(begin, end))
        reason = FinishReason.LENGTH if end == 10 else None
        token_ids = tuple(range(begin, end))
        pieces.append(Completion(LETTERS[shown:visible], token_ids, reason, None, None, "a", logprobs))
        begin, shown = end, visible
    return pieces


@given(st.lists(st.tuples(st.lists(st.integers(0, 10)), st.integers(0, 3), st.integers(0, 10)), max_size=4))
def test_an_answer_has_every_token_and_letter_once(attempts: list[tuple[list[int], int, int]]) -> None:
    resumption = Resumption(None, begins=True)
    got: list[Completion] = []
    for cuts, lag, num_pieces in attempts:
        got += filter(None, map(resumption.take, pieces_of(cuts, lag)[:num_pieces]))
        if resumption.is_over:
            break
        resumption.pause_behind(FAULT)
    if not resumption.is_over:
        got += filter(None, map(resumption.take, pieces_of([5], 1)))
    whole = join(got)
    assert (whole.text, whole.token_ids, whole.finish_reason) == (LETTERS, tuple(range(10)), FinishReason.LENGTH)
    assert [each.logprob for each in whole.logprobs] == [-float(token) for token in range(10)]


def test_another_answer_is_not_joined_to_the_first() -> None:
    resumption = Resumption(None)
    resumption.take(pieces_of([5], 0)[0])
    resumption.pause_behind(FAULT)
    with pytest.raises(Unavailable, match="another one now"):
        resumption.take(Completion("x", (7,), None, None, None, "a"))


def test_attempts_that_bring_nothing_new_end() -> None:
    resumption = Resumption(None)
    first = pieces_of([5], 0)[0]
    resumption.take(first)
    for _ in range(MAX_FAILURES):
        resumption.pause_behind(FAULT)
        assert resumption.take(first) is None
    with pytest.raises(Unavailable, match="is gone"):
        resumption.pause_behind(FAULT)


def test_only_what_is_sampled_gets_a_seed() -> None:
    assert with_seed(GREEDY).seed is None
    assert with_seed(SamplingParams(seed=3)).seed == 3
    assert with_seed(SamplingParams()).seed is not None


@dataclass
class Flaky(inference_pb2_grpc.InferenceServiceServicer):
    """Says a letter more before it breaks off, each time that it is asked; the fourth time it says all.

    Attributes:
        seeds: that it was asked with.
    """

    seeds: list[int] = field(default_factory=list)

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.GenerateResponse:
        self.seeds.append(request.sampling.seed)
        if len(self.seeds) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
        return ANSWER

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        self.seeds.append(request.sampling.seed)
        for each in self.said():
            yield each
        if len(self.seeds) < 4:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")

    async def GenerateMany(
        self, request_iterator: AsyncIterator[pb.GenerateManyRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateManyResponse]:
        async for request in request_iterator:
            if request.WhichOneof("action") == "generate":
                self.seeds.append(request.generate.sampling.seed)
                parts = [pb.GenerateManyPart(number=request.number, response=each) for each in self.said()]
                if len(self.seeds) < 4:
                    failure = pb.GenerateFailure(code=grpc.StatusCode.UNAVAILABLE.value[0], message="stopping")
                    parts.append(pb.GenerateManyPart(number=request.number, failure=failure))
                yield pb.GenerateManyResponse(parts=parts)

    def said(self) -> list[pb.GenerateStreamResponse]:
        attempt = len(self.seeds)
        count = 10 if attempt == 4 else attempt - 1
        found = [pb.GenerateStreamResponse(text=LETTERS[i], token_ids=[i]) for i in range(count)]
        if attempt == 4:
            found[-1].finish.CopyFrom(ANSWER.finish)
        return found


@asynccontextmanager
async def flaky() -> AsyncIterator[tuple[Flaky, str]]:
    service, server = Flaky(), grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    yield service, f"{LOOPBACK}:{port}"
    await server.stop(None)


def whole_stream(address: str) -> list[Completion]:
    with Client(address) as client:
        return list(client.generate_stream("p"))


def whole_answer(address: str) -> list[Completion]:
    with Client(address) as client:
        return [client.generate("p")]


@pytest.mark.parametrize("ask", [whole_stream, whole_answer])
async def test_blocking_calls_end_well(ask: Callable[[str], list[Completion]]) -> None:
    async with flaky() as (service, address):
        pieces = await asyncio.to_thread(ask, address)
    assert join(pieces).text == LETTERS
    assert len(set(service.seeds)) == 1


@pytest.mark.parametrize("multiplex", [False, True])
async def test_streams_of_the_async_client_go_on(multiplex: bool) -> None:
    async with flaky() as (service, address), AsyncClient(address, multiplex=multiplex) as client:
        pieces = [piece async for piece in client.generate_stream("p")]
        assert join(pieces).token_ids == tuple(range(10))
        assert (await client.generate("p")).text == LETTERS
    assert len(service.seeds) == 5
    assert len(set(service.seeds[:4])) == 1


def test_the_documented_service_config_is_that_of_our_clients() -> None:
    page = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert json.loads(block) == json.loads(SERVICE_CONFIG)


async def test_who_wants_no_retries_gets_the_first_error() -> None:
    async with flaky() as (service, address), AsyncClient(address, retries=False) as client:
        with pytest.raises(Unavailable, match="stopping"):
            await client.generate("p")
        assert service.seeds == [0]


async def test_the_timeout_is_that_of_all_attempts() -> None:
    with socket.socket() as listener:  # takes connections, and says nothing
        listener.bind((LOOPBACK, 0))
        listener.listen()
        async with AsyncClient(f"{LOOPBACK}:{listener.getsockname()[1]}", timeout=0.2) as client:
            with pytest.raises(QuireError, match="DEADLINE_EXCEEDED"):
                await anext(client.generate_stream("p"))
