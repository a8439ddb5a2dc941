"""`quire bench serve`: loads a server and reports latency and throughput."""

import asyncio
import importlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from tqdm import tqdm

from quire.clients.bench.compare import comparison
from quire.clients.bench.cost import CostMeter
from quire.clients.bench.document import Run, check_writable, make_document, read_document, write_document
from quire.clients.bench.load import closed_loop, open_loop
from quire.clients.bench.report.table import aligned, latency_rows, throughput_rows, warnings
from quire.clients.bench.settings import WorkloadSettings, make_sessions
from quire.clients.bench.slo import parse_objectives
from quire.clients.bench.summary import summarize
from quire.clients.bench.target.base import Target
from quire.clients.bench.target.choose import open_target
from quire.clients.bench.workload.arrivals import arrivals
from quire.clients.bench.workload.session import Session
from quire.engine.api.errors import StartupError

DEFAULT_VOCAB_SIZE = 1000


class Settings(WorkloadSettings):
    """Load a server: a closed loop by concurrency, an open loop by rate, or a trace at its own times."""

    target: str = "grpc://127.0.0.1:8001"
    """[grpc://]host:port of a frontend, or http://host:port of any server with OpenAI's /v1/completions; over TLS
    grpcs://host:port, or https://host:port."""

    api_key: str = Field("", repr=False, exclude=True)
    """For servers that want one. It belongs into QUIRE_BENCH_API_KEY: other users can read command lines."""

    tls_ca: Path | None = None
    """PEM file with the authorities that the server's certificate must come from; default: the system's."""

    model: str | None = None
    """Name of the model to ask an HTTP server for; default: the first that it lists."""

    concurrency: list[int] = Field(default_factory=list)
    """Requests at once; several, such as 1,4,16, are run one after the other. Default: 8."""

    rate: list[float] = Field(default_factory=list)
    """Requests per second of an open loop; several are run one after the other."""

    burstiness: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Shape of the gamma distributed gaps of an open loop: 1 is Poisson, less comes in bursts."""

    max_concurrency: int | None = Field(None, ge=1)
    """Requests at once in an open loop; default: no limit."""

    warmup: int = Field(8, ge=0)
    """Requests before the first run that are not counted."""

    timeout: float = Field(600.0, gt=0, allow_inf_nan=False)
    """Seconds for one request."""

    multiplex: bool = False
    """Send all requests to a gRPC target over one call (GenerateMany), as a gateway does."""

    slo: list[str] = Field(default_factory=list)
    """A service level objective for goodput, such as ttft:200 or itl:50 (ms; ttft, tpot, itl, e2e); repeatable."""

    json_file: Path | None = Field(None, alias="json")
    """File for the result."""

    report: Path | None = None
    """Folder for a report with curves; needs matplotlib."""

    compare: Path | None = None
    """An earlier result to print the ratios to."""

    progress: bool = True
    """Show a progress bar."""


def run(settings: Settings) -> int:
    """Returns the exit code: 1 if every request failed."""
    # What would be missed only at the end is looked for first.
    earlier = read_document(settings.compare) if settings.compare is not None else None
    if settings.json_file is not None:
        check_writable(settings.json_file)
    page = _report_page(settings.report) if settings.report is not None else None
    started = time.time()
    print(f"seed {settings.seed}")
    model, runs = asyncio.run(_run(settings))
    print(aligned(throughput_rows(runs)), aligned(latency_rows(runs)), sep="\n\n")
    for line in warnings(runs):
        print(f"note: {line}")
    document = make_document(settings.model_dump(mode="json", by_alias=True), model, runs, started)
    if settings.json_file is not None:
        write_document(settings.json_file, document)
    if settings.report is not None and page is not None:
        page.write_report(settings.report, document)
        write_document(settings.report / "result.json", document)
        print(f"report: {settings.report / 'report.html'}")
    if earlier is not None:
        print(f"\n{comparison(document, earlier, 'this run', str(settings.compare))}")
    return 0 if any(run.summary["succeeded"] for run in runs) else 1


async def _run(settings: Settings) -> tuple[str, list[Run]]:
    objectives, loads = parse_objectives(settings.slo), _loads(settings)
    target = open_target(
        settings.target,
        settings.model,
        settings.ignore_eos,
        settings.temperature,
        settings.timeout,
        settings.multiplex,
        settings.api_key,
        settings.tls_ca,
    )
    try:
        info = await target.info()
        vocab_size = settings.vocab_size or info.vocab_size or DEFAULT_VOCAB_SIZE
        if settings.warmup:
            sessions = make_sessions(settings, vocab_size, 0)[: settings.warmup]
            await closed_loop(target, sessions, len(sessions), lambda: None)
        runs = []
        for part, load in enumerate(loads, start=1):
            sessions = make_sessions(settings, vocab_size, part)
            num_turns = sum(len(session.turns) for session in sessions)
            with tqdm(total=num_turns, unit="req", desc=Run(load, {}).name, disable=not settings.progress) as bar:
                async with CostMeter() as cost:
                    records = await _drive(settings, target, sessions, load, bar.update)
            runs.append(Run(load, summarize(records, cost, objectives).to_json()))
    finally:
        await target.close()
    return info.model, runs


def _loads(settings: Settings) -> list[dict[str, Any]]:
    if settings.concurrency and settings.rate:
        raise StartupError("--concurrency and --rate: give one of them; --max-concurrency limits an open loop")
    for name, values in (("concurrency", settings.concurrency), ("rate", settings.rate)):
        if not all(0 < value < float("inf") for value in values):  # which NaN is not
            raise StartupError(f"--{name}: must be above 0 and finite, got {values}")
    if settings.rate:
        return [{"rate": rate, "burstiness": settings.burstiness} for rate in settings.rate]
    if settings.trace is not None and not settings.concurrency:
        return [{"trace_speed": settings.trace_speed}]
    return [{"concurrency": concurrency} for concurrency in settings.concurrency or [8]]


async def _drive(
    settings: Settings, target: Target, sessions: Sequence[Session], load: dict[str, Any], on_done: Any
) -> Any:
    if concurrency := load.get("concurrency"):
        return await closed_loop(target, sessions, concurrency, on_done)
    if rate := load.get("rate"):
        rng = np.random.default_rng((settings.seed, 3))
        times = arrivals(rng, len(sessions), rate, settings.burstiness).tolist()
        sessions = [replace(session, at=at) for session, at in zip(sessions, times, strict=True)]
    elif any(session.at is None for session in sessions):
        raise StartupError("--trace: it has no times; give --concurrency or --rate")
    return await open_loop(target, sessions, settings.max_concurrency, on_done)


def _report_page(folder: Path) -> Any:
    """The module that writes reports into the folder, which it makes."""
    try:
        page = importlib.import_module("quire.clients.bench.report.page")
    except ModuleNotFoundError as error:
        raise StartupError(f"--report {folder}: needs matplotlib; pip install 'quire[bench]'") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"--report {folder}: {error.strerror}") from error
    check_writable(folder / "report.html")
    return page
