"""Services that let in only each other, and clients with a key: by certificates, the token and API keys."""

import ssl
import subprocess
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.clients.client import Client
from quire.engine.api.errors import QuireError
from quire.engine.api.sampling import SamplingParams
from quire.internal.v1 import executor_pb2, executor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from quire.protos.channel import CHANNEL_OPTIONS
from quire.protos.credentials import Credentials, open_aio_channel, open_sync_channel
from quire.services.common.settings import parse
from quire.services.frontend.main import Settings
from quire.v1 import kv_events_pb2, kv_events_pb2_grpc
from support.certificates import Authority, Issued
from support.key_file import key_hash, new_key
from support.otlp_receiver import OtlpReceiver
from support.scrapes import scrape
from support.secured_stack import CLIENT, OPERATOR, QUIRE, REDIS_PASSWORD, TOKEN, Secured

SECONDS = 60
GREEDY = SamplingParams(temperature=0, max_tokens=4)
UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


def codes(secured: Secured, credentials: Credentials) -> set[grpc.StatusCode]:
    """Of every call of schedulers and executors; the attach is of an epoch that is over, so it displaces nobody."""
    more: Any = {"timeout": SECONDS, "metadata": credentials.metadata}
    with open_sync_channel(secured.scheduler, CHANNEL_OPTIONS, credentials) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        found = [stub.GetStatistics.future(scheduler_pb2.GetStatisticsRequest(), **more).code()]
        events = kv_events_pb2_grpc.KVEventsServiceStub(channel)
        for call in (
            stub.Connect(iter([]), **more),
            stub.Watch(scheduler_pb2.WatchRequest(), **more),
            events.Subscribe(kv_events_pb2.SubscribeKVEventsRequest(), **more),
        ):
            found.append(first_code(call))
    with open_sync_channel(secured.executor, CHANNEL_OPTIONS, credentials) as channel:
        message = executor_pb2.ExecuteRequest(attach=executor_pb2.Attach(epoch=0))
        found.append(executor_pb2_grpc.ExecutorServiceStub(channel).Execute(iter([message]), **more).code())
    return set(found)


def first_code(call: Any) -> grpc.StatusCode:
    """OK if a stream begins, else how it ends."""
    try:
        next(call)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
        return code
    call.cancel()
    return grpc.StatusCode.OK


def test_who_is_known_is_let_in(secured: Secured) -> None:
    with Client(secured.frontend, timeout=SECONDS, credentials=secured.client()) as client:
        assert client.generate("Once upon", GREEDY).token_ids
    assert codes(secured, secured.known()) == {grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION}


def of(issued: Issued, authority: Path) -> Credentials:
    return Credentials(True, authority, issued.certificate, issued.key, "service", TOKEN)


def test_who_has_no_right_certificate_is_not_let_in(secured: Secured, tmp_path: Path) -> None:
    ours, stranger = secured.authority.file, Authority(tmp_path)
    for credentials in (
        Credentials(token=TOKEN),
        Credentials(True, ours, server_name="service", token=TOKEN),
        of(secured.authority.issue("expired", is_expired=True), ours),
        of(stranger.issue("service"), ours),
        # Ours does not show them what they trust.
        of(secured.service, stranger.file),
    ):
        assert codes(secured, credentials) == {UNAVAILABLE}


@pytest.mark.parametrize("token", ["", "another-token-of-some-length", TOKEN[:-1], TOKEN + "x"])
def test_who_does_not_know_the_token_is_refused(secured: Secured, token: str) -> None:
    assert codes(secured, secured.known(token)) == {UNAUTHENTICATED}


def test_health_wants_no_token(secured: Secured) -> None:
    with open_sync_channel(secured.scheduler, CHANNEL_OPTIONS, secured.known("")) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_protocols_are_told_by_setting_to_who_is_known(secured: Secured) -> None:
    for address, credentials, code in (
        (secured.frontend, secured.client(), grpc.StatusCode.UNIMPLEMENTED),
        (secured.scheduler, secured.known(""), UNAUTHENTICATED),
        (secured.executor, secured.known(""), UNAUTHENTICATED),
    ):
        async with open_aio_channel(address, CHANNEL_OPTIONS, credentials) as channel:
            call: Any = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            assert await call(metadata=credentials.metadata, timeout=SECONDS).code() is code


def test_https_and_its_routes(secured: Secured) -> None:
    assert status(secured, "/health") == 200
    assert [status(secured, "/v1/models", name) for name in (None, CLIENT)] == [401, 200]
    for path in ("/metrics", "/ui/"):
        assert [status(secured, path, name) for name in (None, CLIENT, OPERATOR)] == [401, 403, 200]
    assert status(secured, "/health", host="evil.example") == 421


def status(secured: Secured, path: str, name: str | None = None, host: str = "localhost") -> int:
    """Of an answer to whoever has this key."""
    trusting = ssl.create_default_context(cafile=secured.authority.file)
    port = int(secured.http.rpartition(":")[2])
    with closing(HTTPSConnection("localhost", port, context=trusting, timeout=SECONDS)) as connection:
        key = {} if name is None else {"Authorization": f"Bearer {new_key(name)}"}
        connection.request("GET", path, headers={"Host": host, **key})
        return connection.getresponse().status


def test_commands(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = run("stats", "--scheduler", secured.scheduler, *secured.shown_to_services)
    assert stats.returncode == 0, stats.stderr
    assert secured.executor in stats.stdout
    refused = run("stats", "--scheduler", secured.scheduler, *secured.shown_to_services[:-2])
    assert refused.returncode == 1
    assert "the token that the services share" in refused.stderr
    tls = ("--tls-ca", str(secured.authority.file))
    monkeypatch.setenv("QUIRE_GENERATE_API_KEY", new_key(CLIENT))
    told = run("generate", "Once", "--address", secured.frontend, "--max-tokens", "2", *tls, "--tls-name", "localhost")
    assert told.returncode == 0, told.stderr
    health = run("health", secured.scheduler, *secured.shown_to_services[:-2])
    assert health.returncode == 0, health.stderr


def test_bench_over_tls(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_BENCH_API_KEY", new_key(CLIENT))
    ports = {"grpcs": secured.frontend, "https": secured.http}
    for scheme, address in ports.items():
        # The certificate is of this name.
        target = f"{scheme}://localhost:{address.rpartition(':')[2]}"
        bench = ("bench", "serve", f"--target={target}", "--num-requests=2", "--output-tokens=2", "--no-progress")
        done = run(*bench, "--tls-ca", str(secured.authority.file))
        assert done.returncode == 0, done.stderr
        assert run(*bench).returncode == 1, "whose certificate is of an authority that nobody knows"


@pytest.mark.parametrize("flag", ["--tls-cert", "--tls-key", "--tls-ca", "--public-tls-key", "--public-tls-ca"])
def test_half_of_the_settings(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Settings, "quire frontend", [flag, "some.pem"])
    assert "must be set together with --" in capsys.readouterr().err


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*QUIRE, *arguments], capture_output=True, text=True, timeout=120, check=False)


def secrets(secured: Secured) -> list[str]:
    """All that somebody could use."""
    keys = [key.read_text() for key in (secured.service.key, secured.public.key)]
    private = [line for key in keys for line in key.splitlines() if line and not line.startswith("-")]
    named = [new_key(name) for name in (CLIENT, OPERATOR)]
    return [TOKEN, REDIS_PASSWORD, *private, *named, *map(key_hash, named)]


def test_no_secret_is_shown(secured: Secured, collector: OtlpReceiver) -> None:
    """Last: logs, traces and metrics have all that these tests have asked for."""
    told = [secured.known("wrong-token-" + TOKEN), secured.client("wrong-" + CLIENT)]
    errors = [failure(secured, credentials) for credentials in told]
    logs = [secured.log(name) for name in secured.processes]
    traces = [each.read_text() for each in (secured.folder / "traces").iterdir()]
    metrics = [repr(scrape(address)) for address in secured.metrics]
    assert collector.spans
    spans = [repr(collector.spans), repr(collector.resources)]
    shown = [*errors, *logs, *traces, *metrics, *spans, *command_lines(secured)]
    for secret in secrets(secured):
        assert not [text[:80] for text in shown if secret in text]
    for name in secured.processes:
        assert "listening on" in secured.log(name)
        assert "Traceback" not in secured.log(name)


def failure(secured: Secured, credentials: Credentials) -> str:
    client = Client(secured.frontend, timeout=SECONDS, credentials=credentials)
    with client, pytest.raises(QuireError) as caught:
        client.generate("Once", GREEDY)
    return repr(caught.value)


def command_lines(secured: Secured) -> list[str]:
    """Of the services and their children."""
    parents = [psutil.Process(process.pid) for process in secured.processes.values()]
    every = [*parents, *(child for parent in parents for child in parent.children(recursive=True))]
    assert len(every) >= 5, "a frontend has workers"
    return [" ".join(process.cmdline()) for process in every]
