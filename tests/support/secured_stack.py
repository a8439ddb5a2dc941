"""Services as processes that let in only each other, by TLS and a token, and only clients with a key."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.protos.channel import CHANNEL_OPTIONS
from quire.protos.credentials import Credentials, open_aio_channel
from quire.services.up.ports import LOOPBACK, free_port
from support.certificates import Authority, Issued
from support.key_file import KeyFile, new_key

TOKEN = "a-token-of-sixteen-or-more"
REDIS_PASSWORD = "the-password-of-redis"
CLIENT, OPERATOR = "client", "operator"
QUIRE = (sys.executable, "-m", "quire.services.cli")


@dataclass(frozen=True)
class Secured:
    """Running services, and what they trust.

    Attributes:
        redis: host:port of the ledger.
        collector: URL of what gets spans.
        scheduler, executor, frontend, http: addresses.
        metrics: those of scheduler and executor.
        authority: of all certificates.
        service: certificate that all services have.
        keys: API keys that the frontend knows.
        folder: of certificates, keys and logs, which are named as the services.
        processes: by the services' names.
    """

    redis: str
    collector: str
    authority: Authority
    service: Issued
    public: Issued
    token_file: Path
    keys: KeyFile
    folder: Path
    scheduler: str = field(default_factory=lambda: f"{LOOPBACK}:{free_port()}")
    executor: str = field(default_factory=lambda: f"{LOOPBACK}:{free_port()}")
    frontend: str = field(default_factory=lambda: f"{LOOPBACK}:{free_port()}")
    http: str = field(default_factory=lambda: f"{LOOPBACK}:{free_port()}")
    metrics: tuple[str, str] = field(default_factory=lambda: (f"{LOOPBACK}:{free_port()}", f"{LOOPBACK}:{free_port()}"))
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def known(self, token: str = TOKEN) -> Credentials:
        """What another service shows."""
        issued = self.service
        return Credentials(True, issued.authority, issued.certificate, issued.key, "service", token)

    @property
    def redis_url(self) -> str:
        """With the user and the password of the scheduler."""
        return f"redis://quire:{REDIS_PASSWORD}@{self.redis}/0"

    def client(self, name: str = CLIENT) -> Credentials:
        """What a client with this key shows."""
        return Credentials(True, self.authority.file, server_name="localhost", token=new_key(name))

    def log(self, name: str) -> str:
        """What a service has logged."""
        return (self.folder / f"{name}.log").read_text()

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """While the context is open, a service does nothing."""
        self.processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[name].send_signal(signal.SIGCONT)

    @property
    def shown_to_services(self) -> tuple[str, ...]:
        """Flags of what speaks to schedulers and executors."""
        issued, authority = self.service, str(self.authority.file)
        return (
            *("--tls-cert", str(issued.certificate), "--tls-key", str(issued.key), "--tls-ca", authority),
            *("--tls-name", "service", "--service-token-file", str(self.token_file)),
        )

    def commands(self) -> dict[str, tuple[str, ...]]:
        """What each service is started with."""
        common = (*self.shown_to_services, "--log-level", "debug", "--otlp-endpoint", self.collector)
        common = (*common, "--trace-dir", str(self.folder / "traces"))
        redis = ("--redis", f"redis://quire@{self.redis}/0", "--redis-password-file", str(self.folder / "redis"))
        listening = ("--listen", self.frontend, "--http-listen", self.http, "--scheduler", self.scheduler)
        public = ("--public-tls-cert", str(self.public.certificate), "--public-tls-key", str(self.public.key))
        executor = ("--listen", self.executor, "--metrics-listen", self.metrics[1], "--num-blocks", "64")
        scheduler = ("--listen", self.scheduler, "--metrics-listen", self.metrics[0], "--executors", self.executor)
        # Nobody else is to lead, however long a busy machine keeps it waiting.
        scheduler = (*scheduler, "--lease-seconds", "10")
        frontend = (*listening, *public, "--api-keys", str(self.keys.path), "--drain-seconds", "0", "--no-reflection")
        return {
            "executor": ("executor", *executor, *common),
            "scheduler": ("scheduler", *scheduler, *redis, *common),
            "frontend": ("frontend", *frontend, "--ui", "--workers", "2", *common),
        }


@asynccontextmanager
async def secured_stack(folder: Path, redis: str, collector: str) -> AsyncIterator[Secured]:
    """All services, once tokens can be made.

    Args:
        redis: host:port of one with the users of deploy/redis.
        collector: URL of what gets spans.
    """
    authority = Authority(folder)
    tokens, keys = folder / "tokens", KeyFile(folder / "keys.toml", CLIENT, OPERATOR)
    tokens.write_text(f"{TOKEN}\n")
    keys.tables[OPERATOR]["operator"] = True
    keys.write()
    (folder / "redis").write_text(f"{REDIS_PASSWORD}\n")
    issued, public = authority.issue("service"), authority.issue("public", "localhost")
    secured = Secured(redis, collector, authority, issued, public, tokens, keys, folder)
    async with AsyncExitStack() as stack:
        for name, command in secured.commands().items():
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen([*QUIRE, *command], stdout=log, stderr=subprocess.STDOUT)
            secured.processes[name] = process
            stack.callback(process.kill)
        await until_serving(secured.frontend, secured.client())
        yield secured
        for process in reversed(secured.processes.values()):
            process.terminate()
        assert [await asyncio.to_thread(process.wait, 60) for process in secured.processes.values()] == [0, 0, 0]


async def until_serving(address: str, credentials: Credentials) -> None:
    """Returns when the service says that tokens can be made."""
    async with asyncio.timeout(120), open_aio_channel(address, CHANNEL_OPTIONS, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                async for answer in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
