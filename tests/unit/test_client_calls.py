"""Both clients against a real server that does as the prompt says."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_status import rpc_status
from pydantic_settings import CliApp

from quire.clients import generate
from quire.clients.async_client import AsyncClient
from quire.clients.client import Client
from quire.clients.generate import Settings
from quire.engine.api.completion import FinishReason
from quire.engine.api.errors import InvalidRequest, Overloaded, QuireError, Unavailable
from quire.engine.api.sampling import SamplingParams
from quire.protos.status import RefusedRequest, readable
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc

REFUSAL = "sampling.top_p: must be above 0 and at most 1, got 1.5"


def busy() -> Status:
    detail = AnyMessage()
    detail.Pack(RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)))
    return Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="1024 wait", details=[detail])


async def fail(name: str, context: grpc.aio.ServicerContext) -> None:
    if name == "invalid":
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, REFUSAL)
    if name == "busy":
        await context.abort_with_status(rpc_status.to_status(busy()))
    if name == "too large":
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "message too large")
    if name == "away":
        await context.abort(grpc.StatusCode.UNAVAILABLE, "no executor")
    if name == "broken":
        await context.abort(grpc.StatusCode.INTERNAL, "a bug")


@dataclass
class EchoService(inference_pb2_grpc.InferenceServiceServicer):
    """Answers with the prompt's letters, one message each; "forever" never ends; some prompts name an error."""

    waiting: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> pb.GenerateResponse:
        pieces = [piece async for piece in self.GenerateStream(request, context)]
        return pb.GenerateResponse(
            request_id=pieces[0].request_id,
            text="".join(piece.text for piece in pieces),
            token_ids=[one for piece in pieces for one in piece.token_ids],
            finish=pieces[-1].finish,
            logprobs=[one for piece in pieces for one in piece.logprobs],
        )

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        await fail(request.text, context)
        name = request.request_id or "made"
        logprobs = [pb.TokenLogprobs(logprob=-0.5)] if request.sampling.HasField("logprobs") else []
        for token_id, letter in enumerate(request.text):
            yield pb.GenerateStreamResponse(request_id=name, text=letter, token_ids=[token_id], logprobs=logprobs)
        if request.text == "forever":
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        usage = pb.Usage(prompt_tokens=len(request.text), generated_tokens=len(request.text))
        finish = pb.Finish(reason=pb.FINISH_REASON_STOP, stop=request.sampling.stop[0], usage=usage)
        yield pb.GenerateStreamResponse(request_id=name, finish=finish)

    async def Tokenize(self, request: pb.TokenizeRequest, context: grpc.aio.ServicerContext) -> pb.TokenizeResponse:
        await fail(request.text, context)
        return pb.TokenizeResponse(token_ids=request.text.encode())

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: grpc.aio.ServicerContext
    ) -> pb.DetokenizeResponse:
        return pb.DetokenizeResponse(text=bytes(request.token_ids).decode())

    async def Abort(self, request: pb.AbortRequest, context: grpc.aio.ServicerContext) -> pb.AbortResponse:
        return pb.AbortResponse(found=request.request_id == "known")

    async def GetModel(self, request: pb.GetModelRequest, context: grpc.aio.ServicerContext) -> pb.GetModelResponse:
        return pb.GetModelResponse(name="echo")

    async def GetServer(self, request: pb.GetServerRequest, context: grpc.aio.ServicerContext) -> pb.GetServerResponse:
        return pb.GetServerResponse(version="1")


@dataclass
class EchoServer:
    """The service and its health on a port of its own, in a loop of its own."""

    service: EchoService = field(default_factory=EchoService)
    health: health_aio.HealthServicer = field(default_factory=health_aio.HealthServicer)
    address: str = ""

    async def serve(self, started: threading.Event, stop: threading.Event) -> None:
        server = grpc.aio.server()
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self.service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        self.loop = asyncio.get_running_loop()
        await server.start()
        started.set()
        await asyncio.to_thread(stop.wait)
        await server.stop(None)

    def set_health(self, status: int) -> None:
        asyncio.run_coroutine_threadsafe(self.health.set("", status), self.loop).result()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    started, stop = threading.Event(), threading.Event()
    echo = EchoServer()
    thread = threading.Thread(target=lambda: asyncio.run(echo.serve(started, stop)))
    thread.start()
    assert started.wait(10)
    yield echo
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def client(server: EchoServer) -> Iterator[Client]:
    with Client(server.address, timeout=60) as client:
        yield client


STOP = SamplingParams(stop=("</s>",))


def test_whole_answer(client: Client) -> None:
    answer = client.generate("abc", STOP, request_id="mine")
    assert (answer.text, answer.token_ids, answer.request_id) == ("abc", (0, 1, 2), "mine")
    assert (answer.finish_reason, answer.matched_stop) == (FinishReason.STOP, "</s>")
    assert answer.usage is not None
    assert answer.usage.generated_tokens == 3


def test_answer_in_pieces(client: Client) -> None:
    pieces = list(client.generate_stream("abc", STOP))
    assert [piece.text for piece in pieces] == ["a", "b", "c", ""]
    assert [piece.finish_reason for piece in pieces] == [None, None, None, FinishReason.STOP]
    assert {piece.request_id for piece in pieces} == {"made"}


def test_the_other_calls(client: Client) -> None:
    assert client.tokenize("ab") == (97, 98)
    assert client.detokenize([97, 98]) == "ab"
    assert client.abort("known")
    assert not client.abort("unknown")
    assert client.model().name == "echo"
    assert client.server().version == "1"


async def test_answers_of_more_than_4_mib(server: EchoServer, client: Client) -> None:
    """What gRPC receives by default; servers send more."""
    text, num_tokens = "é" * 1_300_000, 2_600_000  # of two bytes each
    assert len(client.tokenize(text)) == num_tokens
    async with AsyncClient(server.address) as asynchronous:
        assert len(await asynchronous.tokenize(text)) == num_tokens


ERRORS = [
    ("invalid", InvalidRequest, REFUSAL, False),
    ("busy", Overloaded, "1024 wait", True),
    ("away", Unavailable, "no executor", True),
    ("too large", QuireError, "RESOURCE_EXHAUSTED: message too large", False),
    ("broken", QuireError, "INTERNAL: a bug", False),
]


@pytest.mark.parametrize(("prompt", "kind", "message", "retryable"), ERRORS)
def test_errors_keep_kind_and_message(
    client: Client, prompt: str, kind: type[QuireError], message: str, retryable: bool
) -> None:
    calls = [client.generate, lambda text: list(client.generate_stream(text)), client.tokenize]
    for call in calls:
        with pytest.raises(kind) as caught:
            call(prompt)
        assert str(caught.value) == message
        assert getattr(caught.value, "retryable", False) is retryable


@pytest.mark.parametrize(("prompt", "kind", "message", "retryable"), ERRORS)
async def test_errors_of_the_async_client(
    server: EchoServer, prompt: str, kind: type[QuireError], message: str, retryable: bool
) -> None:
    async with AsyncClient(server.address, timeout=60) as client:
        with pytest.raises(kind) as caught:
            await client.generate(prompt)
        assert str(caught.value) == message
        assert getattr(caught.value, "retryable", False) is retryable
        with pytest.raises(kind):
            await anext(client.generate_stream(prompt))
        with pytest.raises(kind):
            await client.tokenize(prompt)


def test_refusals_are_taken_apart(client: Client) -> None:
    with pytest.raises(RefusedRequest) as caught:
        client.generate("invalid")
    error = caught.value
    assert (error.field, error.limit, error.value) == (
        "sampling.top_p",
        "must be above 0 and at most 1",
        "1.5",
    )
    assert RefusedRequest("odd").limit == "odd"


def test_overload_says_when_to_try_again(client: Client) -> None:
    with pytest.raises(Overloaded) as caught:
        client.generate("busy")
    assert caught.value.retry_after == 2.5


def test_timeout_ends_a_call(server: EchoServer) -> None:
    with Client(server.address, timeout=0.2) as client, pytest.raises(QuireError, match=r"^DEADLINE_EXCEEDED"):
        client.generate("forever")


def test_nobody_listens() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        client.model()


def test_closing_the_iterator_cancels_on_the_server(server: EchoServer, client: Client) -> None:
    with closing(client.generate_stream("forever")) as pieces:
        assert next(pieces).text == "f"
        assert server.service.waiting.wait(60)
        assert not server.service.cancelled.is_set()
    assert server.service.cancelled.wait(60)


async def test_async_calls(server: EchoServer) -> None:
    async with AsyncClient(server.address, timeout=60) as client:
        assert (await client.generate("abc", STOP)).text == "abc"
        assert [piece.text async for piece in client.generate_stream("abc", STOP)] == ["a", "b", "c", ""]
        assert await client.tokenize("ab") == (97, 98)
        assert await client.detokenize([97, 98]) == "ab"
        assert await client.abort("known")
        assert (await client.model()).name == "echo"
        assert (await client.server()).version == "1"


async def test_async_iterator_cancels_on_the_server(server: EchoServer) -> None:
    async with AsyncClient(server.address) as client:
        pieces = client.generate_stream("forever")
        assert (await anext(pieces)).text == "f"
        assert await asyncio.to_thread(server.service.waiting.wait, 5)
        await pieces.aclose()
        assert await asyncio.to_thread(server.service.cancelled.wait, 5)


async def test_cancelled_task_cancels_on_the_server(server: EchoServer) -> None:
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(client.generate("forever"))
        assert await asyncio.to_thread(server.service.waiting.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.service.cancelled.wait, 5)


def test_ready_waits_for_serving(server: EchoServer, client: Client) -> None:
    server.set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
    with pytest.raises(Unavailable, match=r"was not ready within 2 s: NOT_SERVING"):
        client.ready(2)
    timer = threading.Timer(0.2, server.set_health, [health_pb2.HealthCheckResponse.SERVING])
    timer.start()
    client.ready(10)
    timer.join()


async def test_async_ready_waits_for_serving(server: EchoServer) -> None:
    async with AsyncClient(server.address) as client:
        server.set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        with pytest.raises(Unavailable, match="NOT_SERVING"):
            await client.ready(2)
        server.set_health(health_pb2.HealthCheckResponse.SERVING)
        await client.ready(10)


def test_ready_without_a_server() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable, match="no connection"):
        client.ready(2)


def test_generate_streams_to_the_terminal(server: EchoServer, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(prompt="abc", address=server.address, stop=("x",))
    assert generate.run(settings) == 0
    assert capsys.readouterr() == ("abc\n", "")


def test_generate_prints_json(server: EchoServer, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(prompt="äb", address=server.address, stop=("x",), json=True)
    assert generate.run(settings) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "text": "äb",
        "token_ids": [0, 1],
        "finish_reason": "stop",
        "matched_stop": "x",
        "usage": {"prompt_tokens": 2, "cached_tokens": 0, "generated_tokens": 2},
        "request_id": "made",
    }


def test_generate_prints_logprobs_that_are_asked_for(server: EchoServer, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(prompt="ab", address=server.address, stop=("x",), json=True, logprobs=0)
    assert generate.run(settings) == 0
    each = {"logprob": -0.5, "top_token_ids": [], "top_logprobs": []}
    assert json.loads(capsys.readouterr().out)["logprobs"] == [each, each]


def test_generate_reads_standard_input(
    server: EchoServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))
    assert generate.run(Settings(prompt="-", address=server.address, stop=("x",))) == 0
    assert capsys.readouterr().out == "from a pipe\n"


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_generate_ends_quietly_when_nobody_reads(server: EchoServer, flags: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "quire.services.cli", "generate", "ab", "--stop=x", *flags]
    reading, writing = os.pipe()
    os.close(reading)
    env = os.environ | {"QUIRE_GENERATE_ADDRESS": server.address}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60, env=env, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("details", "message"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote "
            "host: Connection refused",
            "cannot connect to 127.0.0.1:9: Connection refused",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:9: connection attempt timed out",
            "cannot connect to [::1]:9: connection attempt timed out",
        ),
        (
            "errors resolving a.b:80: [field:hostname lookup error:address lookup failed for a.b:80: Domain name not "
            "found]",
            "cannot find a.b: Domain name not found",
        ),
        ("no executor is attached", "no executor is attached"),
    ],
)
def test_the_transports_own_messages_are_made_readable(details: str, message: str) -> None:
    assert readable(details) == message


@pytest.mark.parametrize("as_json", [False, True])
def test_generate_says_in_one_line_what_went_wrong(
    server: EchoServer, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    assert generate.run(Settings(prompt="invalid", address=server.address, json=as_json)) == 1
    assert capsys.readouterr() == ("", f"quire generate: error: {REFUSAL}\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupt_exits_130_and_cancels_on_the_server(server: EchoServer, as_json: bool) -> None:
    code = (
        # Where the tests themselves run in the background, the shell has made their children deaf to Ctrl-C.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from quire.clients.generate import Settings, run; "
        f"sys.exit(run(Settings(prompt='forever', address='{server.address}', json={as_json})))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if not server.service.waiting.wait(60):
            process.kill()
            pytest.fail(f"the request did not arrive: {process.communicate()[1]}")
        assert process.stdout is not None
        if not as_json:
            assert process.stdout.read(7) == "forever"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "\n")
    assert server.service.cancelled.wait(60)


COMMAND_LINES = [
    ([], {}),
    (["--max-tokens", "5", "--top-k", "3", "--seed", "18446744073709551615"], {"max_tokens": 5, "top_k": 3}),
    (["--stop", "one", "--stop", "two words"], {"stop": ("one", "two words")}),
    (["--stop", r"\n\n", "--stop", r"\x2c"], {"stop": ("\n\n", ",")}),
    (["--stop-token-ids", "1", "--stop-token-ids", "2"], {"stop_token_ids": (1, 2)}),
    (["--json", "--ignore-eos", "--timeout", "2.5"], {"json_output": True, "ignore_eos": True, "timeout": 2.5}),
    (["--presence-penalty", "-1", "--logprobs", "0"], {"presence_penalty": -1.0, "logprobs": 0}),
    (["--frequency-penalty", "0.5", "--repetition-penalty", "1.2"], {"repetition_penalty": 1.2, "logprobs": None}),
    (["--address", "[::1]:9", "--temperature", "0", "--min-p", "0.1"], {"address": "[::1]:9", "min_p": 0.1}),
]


@pytest.mark.parametrize(("arguments", "expected"), COMMAND_LINES)
def test_command_line(arguments: list[str], expected: dict[str, object]) -> None:
    settings = CliApp.run(Settings, ["Füße", *arguments])
    assert settings.prompt == "Füße"
    assert {name: getattr(settings, name) for name in expected} == expected


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_GENERATE_TOP_P", "0.5")
    monkeypatch.setenv("QUIRE_GENERATE_STOP", r'["a, b", "\n"]')
    monkeypatch.setenv("QUIRE_GENERATE_JSON", "true")
    monkeypatch.setenv("JSON", "false")
    settings = Settings(prompt="x")
    assert (settings.top_p, settings.stop, settings.json_output) == (0.5, ("a, b", "\n"), True)
