"""`quire frontend`: tokenizes, enqueues, and turns tokens into text."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import grpc
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from quire.engine.api.errors import Unavailable
from quire.engine.chat.chat_format import ChatFormat
from quire.engine.config import ChatConfig
from quire.engine.model.source import model_name, resolve_model
from quire.engine.text.fingerprint import tokenizer_fingerprint
from quire.engine.text.tokenizer import Tokenizer
from quire.internal.v1 import worker_pb2_grpc
from quire.kserve import open_inference_pb2_grpc
from quire.protos.address import Address, Addresses, OptionalAddress
from quire.protos.channel import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES
from quire.services.common.address import is_loopback
from quire.services.common.api_key_file import ApiKeyFile
from quire.services.common.health import ENDS, Health
from quire.services.common.host_names import HostNames
from quire.services.common.intake import Intake
from quire.services.common.metrics.meter import Meter
from quire.services.common.public_ports import PublicPorts
from quire.services.common.security import ServerSecurity
from quire.services.common.server import serving
from quire.services.common.settings import MAX_WORKERS, ServiceSettings
from quire.services.common.signals import run_service, until_signal
from quire.services.common.targets import Targets
from quire.services.common.tracing import tracing
from quire.services.common.watchdog import watching
from quire.services.frontend import vllm_metrics
from quire.services.frontend.call import Calls
from quire.services.frontend.gauges import Gauges
from quire.services.frontend.http.access import HttpAccess
from quire.services.frontend.http.app import make_app
from quire.services.frontend.http.limits import HttpLimits, raise_file_limit
from quire.services.frontend.http.server import HttpServer, http_serving
from quire.services.frontend.inference import Inference
from quire.services.frontend.kserve.servicer import KServeServicer
from quire.services.frontend.meter import FrontendMeter
from quire.services.frontend.metrics import METRICS
from quire.services.frontend.scheduler_link import FAILOVER_SECONDS, SchedulerLink
from quire.services.frontend.servicer import InferenceServicer
from quire.services.frontend.siblings import Siblings
from quire.services.frontend.tenants.api_keys import ApiKeys
from quire.services.frontend.tenants.key_interceptor import KeyInterceptor
from quire.services.frontend.ui.live_feed import LiveFeed
from quire.services.frontend.ui.own_figures import FirstTokens, own_figures
from quire.services.frontend.ui.routes import ui_routes
from quire.services.frontend.workers import Workers
from quire.services.frontend.workers_metrics import WorkersMetrics
from quire.v1 import inference_pb2_grpc

# How long HTTP connections may bring one more request after SIGINT or SIGTERM. One that is used has brought it by then,
# and heard that there is none behind it.
LEAVE_SECONDS: Final = 1.0
SERVICES: Final = ("quire.v1.InferenceService", "inference.GRPCInferenceService")


class Settings(ServiceSettings, PublicPorts, HostNames, ApiKeyFile, ChatConfig):
    """Answer clients: tokenize, enqueue at the scheduler, turn tokens into text."""

    model_config = SettingsConfigDict(env_prefix="QUIRE_FRONTEND_")

    listen: Address = "127.0.0.1:8001"
    """host:port to listen on; port 0 chooses a free one."""

    http_listen: OptionalAddress = "127.0.0.1:8000"
    """host:port of the OpenAI-compatible HTTP API; port 0 chooses a free one, "" leaves it out."""

    scheduler: Addresses = "127.0.0.1:8002"
    """The schedulers' host:port, separated by commas: the leader's and its standbys'. dns:name:port stands for every
    address that the name has, now and later."""

    failover_seconds: float = Field(FAILOVER_SECONDS, ge=0, le=600)
    """How long new requests wait for a scheduler that leads, when the one before has gone, instead of being refused.
    Those that were accepted wait for as long as it takes."""

    model: str | None = None
    """Hugging Face folder or hub id of the model that the executors serve; default: the demo model."""

    served_model_name: str | None = Field(None, min_length=1)
    """The name that clients know the model by; default: the hub id, or the folder's own name."""

    workers: int = Field(1, ge=1, le=MAX_WORKERS)
    """Processes that share the two ports, for more requests than one core can tokenize and stream. Connections are
    spread over them, so a client with a single one uses a single process."""

    reuse_port: bool = False
    """Listen also where other frontends of this user do, if all say so; the kernel spreads connections over them. One
    that replaces another starts beside it, so that no connection is refused."""

    max_requests: int = Field(4096, ge=1)
    """Requests open at once in each worker; more are refused with RESOURCE_EXHAUSTED."""

    stream_interval: int = Field(1, ge=1, le=1024)
    """Steps that a stream's tokens may wait to be sent in one message; the first one is sent at once. More spare the
    time that messages take, where those of many streams are more than clients need."""

    ui: bool | None = None
    """The live page of the HTTP API, /ui: it shows request ids, and lets who sees it generate as the API does. Default:
    yes if `http_listen` is an address of loopback."""

    http_cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the HTTP API, such as https://chat.example.org; *: any. Default: none."""

    http_max_connections: int = Field(8192, ge=1)
    """HTTP connections open at once in each worker, at most as many as files may be open. One more closes the
    connection that has waited longest for a request.
    """

    http_max_header_bytes: int = Field(64 * 1024, ge=1024)
    """Bytes of an HTTP request's line and header fields; more are refused with 431."""

    max_request_bytes: int = Field(MAX_REQUEST_BYTES, ge=1024, le=MAX_MESSAGE_BYTES // 2)
    """Bytes of a gRPC message or of an HTTP body; larger ones are refused. English text takes about four for a token,
    a token id three over gRPC and seven over HTTP."""

    http_header_seconds: float = Field(10.0, gt=0)
    """How long an HTTP connection may take to send a request's header fields."""

    http_body_seconds: float = Field(60.0, gt=0)
    """How long an HTTP connection may take to send a request's body."""

    adapter_updates: bool = False
    """Whether clients may load and unload adapters, from any folder that the executors can read."""

    write_seconds: float = Field(60.0, gt=0)
    """How long a client may leave what is sent to it unread before its call is ended."""

    vllm_metrics: bool = False
    """Whether /metrics has vLLM's names, too, for dashboards and endpoint pickers that read those."""

    trace_sample: float | None = Field(None, ge=0, le=1)
    """Share of the traces that begin here that are recorded. A trace that a client has begun is recorded if the client
    says so. Default: as OTEL_TRACES_SAMPLER says, or all."""

    drain_seconds: float = Field(5.0, ge=0)
    """How long running requests may go on after SIGINT or SIGTERM. Connections are told at once to go elsewhere."""


def run(settings: Settings) -> int:
    """Runs until SIGINT or SIGTERM; returns the exit code."""
    if settings.workers == 1:
        run_service(serve(settings))
    else:
        order = settings.model_dump(mode="json")
        workers = Workers(order, settings.workers, settings.drain_seconds, settings.stall_seconds)
        run_service(workers.run())
    return 0


async def serve(settings: Settings, own_address: str = "", siblings: Sequence[str] = ()) -> None:
    """One process; a worker has an address of its own, whose last part is its number, and siblings at theirs."""
    with tracing(settings, "frontend", settings.trace_sample) as tracer:
        await _serve(settings, own_address, siblings, Calls(tracer))


async def _serve(settings: Settings, own_address: str, siblings: Sequence[str], calls: Calls) -> None:
    folder = resolve_model(settings.model, weights=False)
    name = settings.served_model_name or model_name(settings.model, folder)
    meter = _meter(settings, name, Path(own_address).stem)
    has_page = is_loopback(settings.http_listen) if settings.ui is None else settings.ui
    first_tokens = FirstTokens()
    observers = (FrontendMeter(meter), first_tokens) if has_page else (FrontendMeter(meter),)
    connector = settings.connector
    link = SchedulerLink(
        Targets(settings.scheduler),
        f"{socket.gethostname()}/{os.getpid()}",
        settings.max_requests,
        tokenizer_fingerprint(folder),
        connector,
        observers,
        settings.failover_seconds,
    )
    tokenizer = Tokenizer.load(folder)
    inference = Inference(name, tokenizer, link, settings.stream_interval, observers, settings.adapter_updates)
    chat_config = ChatConfig(**settings.model_dump(include=set(ChatConfig.model_fields)))
    chat = ChatFormat(folder, tokenizer.special_tokens, chat_config)
    others = Siblings(siblings)
    servicer, workers_metrics = InferenceServicer(inference, others, calls), WorkersMetrics(meter, others)

    def register(server: grpc.aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(KServeServicer(inference, calls), server)
        if own_address:
            worker_pb2_grpc.add_WorkerServiceServicer_to_server(workers_metrics, server)

    intake = Intake(settings.max_request_bytes)
    feed = LiveFeed(Targets(settings.scheduler), connector, partial(own_figures, inference, first_tokens))
    page = ui_routes(feed, inference) if has_page else ()
    place, shares_port = settings.http_listen, settings.reuse_port or bool(own_address)
    certificates = settings.public_certificates
    keys = None if settings.api_keys is None else ApiKeys(settings.api_keys, name, settings.workers)
    access = HttpAccess(settings.http_cors_origins, settings.allowed_hosts(place), keys)
    app = make_app(inference, chat, intake, workers_metrics, access, page, calls)
    limits = _http_limits(settings)
    http = http_serving(place, app, limits, 1, shares_port, certificates) if place else nullcontext()
    leaving = asyncio.Event()
    async with (
        others,
        serving(
            settings.listen,
            SERVICES,
            register,
            grace=1.0,
            write_seconds=settings.write_seconds,
            keepalive=settings.keepalive,
            intake=intake,
            own_address=own_address,
            on_refusal=lambda method, peer, error: inference.tell_refusal(error),
            security=ServerSecurity(certificates, has_reflection=settings.reflection),
            interceptors=() if keys is None else (KeyInterceptor(keys),),
            leaving=leaving,
            shares_port=shares_port,
        ) as health,
        http as http_server,
        watching(settings.stall_seconds),
    ):
        meter.before_each(Gauges(meter, link, http_server, settings.vllm_metrics).refresh)
        await _run(inference, link, health, leaving, http_server, settings.drain_seconds)
        await chat.close()


async def _run(
    inference: Inference,
    link: SchedulerLink,
    health: Health,
    leaving: asyncio.Event,
    http: HttpServer | None,
    drain_seconds: float,
) -> None:
    """Answers until a signal comes, and then only what is open.

    Clients are told first to go elsewhere. Requests that are on their way then are still taken.
    """
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(link.run())
        watching = tasks.create_task(_watch(link, health))
        await until_signal()
        end = time.monotonic() + drain_seconds
        watching.cancel()
        await health.set(ENDS)
        leaving.set()
        if http is not None:
            await http.leave(min(LEAVE_SECONDS, drain_seconds))
        inference.drain()
        await link.drained(end - time.monotonic())
        link.fail_all(Unavailable("this frontend is shutting down"))
        running.cancel()


def _http_limits(settings: Settings) -> HttpLimits:
    return HttpLimits(
        max_connections=min(settings.http_max_connections, raise_file_limit()),
        max_header_bytes=settings.http_max_header_bytes,
        header_seconds=settings.http_header_seconds,
        body_seconds=settings.http_body_seconds,
        write_seconds=settings.write_seconds,
    )


def _meter(settings: Settings, model: str, worker: str) -> Meter:
    labels = {"model_name": model}
    if not settings.vllm_metrics:
        return Meter(METRICS, labels, worker=worker)
    both = (*METRICS, *vllm_metrics.METRICS)
    return Meter(both, labels, worker=worker, aliases=vllm_metrics.ALIASES, alias_labels=vllm_metrics.LABELS)


async def _watch(link: SchedulerLink, health: Health) -> None:
    """SERVING as long as the scheduler can compute what this frontend's clients mean."""
    while True:
        await health.set(link.not_serving_reason or "")
        await link.state_changed()
