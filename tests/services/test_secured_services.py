"""Services that let in only each other: by certificates and by the token that they share."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.clients.client import Client
from quire.engine.api.sampling import SamplingParams
from quire.internal.v1 import executor_pb2, executor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from quire.protos.channel import CHANNEL_OPTIONS
from quire.protos.credentials import Credentials, open_aio_channel, open_sync_channel
from quire.services.common.settings import parse
from quire.services.frontend.main import Settings
from quire.services.up.ports import LOOPBACK, free_port
from quire.services.up.process import Child, Program
from support.certificates import Authority, Issued
from support.redis_server import running_redis

TOKEN = "a token of sixteen or more".replace(" ", "-")
QUIRE = (sys.executable, "-m", "quire.services.cli")
GREEDY = SamplingParams(temperature=0, max_tokens=4)


@dataclass(frozen=True)
class Secured:
    """Addresses of running services, and what they trust."""

    scheduler: str
    executor: str
    frontend: str
    authority: Authority
    token_file: Path
    service: Issued

    def known(self, token: str = TOKEN) -> Credentials:
        """Of another service."""
        issued = self.service
        return Credentials(True, issued.authority, issued.certificate, issued.key, "service", token)


@asynccontextmanager
async def running(folder: Path, redis: str) -> AsyncIterator[Secured]:
    scheduler, executor, frontend, http = (f"{LOOPBACK}:{free_port()}" for _ in range(4))
    authority = Authority(folder)
    issued, public = authority.issue("service"), authority.issue("public", "localhost")
    token_file = folder / "tokens"
    token_file.write_text(f"{TOKEN}\n")
    common = (
        *("--tls-cert", str(issued.certificate), "--tls-key", str(issued.key), "--tls-ca", str(authority.file)),
        *("--tls-name", "service", "--service-token-file", str(token_file), "--log-level", "warning"),
    )
    frontend_flags = (
        *("--listen", frontend, "--http-listen", http, "--scheduler", scheduler, "--drain-seconds", "0"),
        *("--public-tls-cert", str(public.certificate), "--public-tls-key", str(public.key)),
    )
    programs = (
        Program("executor", (*QUIRE, "executor", "--listen", executor, "--num-blocks", "64", *common)),
        Program(
            "scheduler",
            (*QUIRE, "scheduler", "--listen", scheduler, "--executors", executor, *common),
            {"QUIRE_SCHEDULER_REDIS": redis},
        ),
        Program("frontend", (*QUIRE, "frontend", *frontend_flags, *common)),
    )
    secured = Secured(scheduler, executor, frontend, authority, token_file, issued)
    async with AsyncExitStack() as stack:
        for program in programs:
            child = await Child.start(program)
            stack.push_async_callback(child.stop, 60)
        await until_serving(frontend, Credentials(True, authority.file, server_name="localhost"))
        yield secured


async def until_serving(address: str, credentials: Credentials) -> None:
    async with asyncio.timeout(120), open_aio_channel(address, CHANNEL_OPTIONS, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                async for answer in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with running_redis() as redis, asyncio.Runner() as runner:
        context = running(tmp_path_factory.mktemp("secured"), redis)
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


def code_of_statistics(secured: Secured, credentials: Credentials) -> grpc.StatusCode:
    with open_sync_channel(secured.scheduler, CHANNEL_OPTIONS, credentials) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        call = stub.GetStatistics.future(
            scheduler_pb2.GetStatisticsRequest(), timeout=60, metadata=credentials.metadata
        )
        return call.code()


def code_of_attach(secured: Secured, credentials: Credentials) -> grpc.StatusCode:
    """Of an attach by an epoch that is over, so that it can displace nobody."""
    with open_sync_channel(secured.executor, CHANNEL_OPTIONS, credentials) as channel:
        stub = executor_pb2_grpc.ExecutorServiceStub(channel)
        message = executor_pb2.ExecuteRequest(attach=executor_pb2.Attach(epoch=0))
        return stub.Execute(iter([message]), timeout=60, metadata=credentials.metadata).code()


def test_a_client_is_answered(secured: Secured) -> None:
    trusting = Credentials(True, secured.authority.file, server_name="localhost")
    with Client(secured.frontend, timeout=60, credentials=trusting) as client:
        assert client.generate("Once upon", GREEDY).token_ids
    assert code_of_statistics(secured, secured.known()) is grpc.StatusCode.OK
    assert code_of_attach(secured, secured.known()) is grpc.StatusCode.FAILED_PRECONDITION


def test_who_has_no_certificate_is_not_let_in(secured: Secured) -> None:
    for credentials in (Credentials(token=TOKEN), Credentials(True, secured.authority.file, server_name="service")):
        assert code_of_statistics(secured, credentials) is grpc.StatusCode.UNAVAILABLE
        assert code_of_attach(secured, credentials) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("token", ["", "another-token-of-some-length", TOKEN[:-1], TOKEN + "x"])
def test_who_does_not_know_the_token_is_refused(secured: Secured, token: str) -> None:
    assert code_of_statistics(secured, secured.known(token)) is grpc.StatusCode.UNAUTHENTICATED
    assert code_of_attach(secured, secured.known(token)) is grpc.StatusCode.UNAUTHENTICATED


def test_health_wants_no_token(secured: Secured) -> None:
    with open_sync_channel(secured.scheduler, CHANNEL_OPTIONS, secured.known("")) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_commands(secured: Secured) -> None:
    issued = secured.service
    tls = ("--tls-ca", str(secured.authority.file))
    shown = ("--tls-cert", str(issued.certificate), "--tls-key", str(issued.key), "--tls-name", "service")
    token = ("--service-token-file", str(secured.token_file))
    stats = run("stats", "--scheduler", secured.scheduler, *tls, *shown, *token)
    assert stats.returncode == 0, stats.stderr
    assert secured.executor in stats.stdout
    refused = run("stats", "--scheduler", secured.scheduler, *tls, *shown)
    assert refused.returncode == 1
    assert "the token that the services share" in refused.stderr
    told = run("generate", "Once", "--address", secured.frontend, "--max-tokens", "2", *tls, "--tls-name", "localhost")
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("flag", ["--tls-cert", "--tls-key", "--tls-ca", "--public-tls-key", "--public-tls-ca"])
def test_half_of_the_settings(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Settings, "quire frontend", [flag, "some.pem"])
    assert "must be set together with --" in capsys.readouterr().err


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*QUIRE, *arguments], capture_output=True, text=True, timeout=120, check=False)
