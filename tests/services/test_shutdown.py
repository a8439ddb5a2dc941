"""Ending: every stream gets its status, every process is gone, every port is free."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quire.clients.async_client import AsyncClient
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.services.up.ports import LOOPBACK, free_ports
from quire.services.up.process import LONGEST_LINE, Child, Program
from quire.services.up.stack import is_serving
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc
from support.stacks import RunningStack, launch

# The long ones take far longer than the drain, the short ones far less.
NUM_STREAMS = 48
DRAIN_SECONDS = 3.0
# What listens on a port of its own; the frontend comes first.
SERVICES = ("frontend", "http", "scheduler", "executor")
# Less than `TOO_LONG`, and far more than it takes: the machine may be busy.
PROMPT_SECONDS = 60.0
# Imports take most of it.
STARTUP_SECONDS = 200.0
# Nobody waits for so long a drain.
TOO_LONG = 600.0


@dataclass(frozen=True, slots=True)
class Up:
    """A running `quire up`."""

    process: "subprocess.Popen[bytes]"
    ports: tuple[int, ...]

    @property
    def frontend(self) -> str:
        return f"{LOOPBACK}:{self.ports[0]}"

    def tree(self) -> list[psutil.Process]:
        """The process and all below it."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


@pytest.fixture
def hang_up() -> Iterator[None]:
    """What is started has SIGHUP, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def ports() -> tuple[int, ...]:
    return tuple(islice(free_ports(), len(SERVICES)))


@contextmanager
def up(ports: tuple[int, ...], drain_seconds: float = 0.5) -> Iterator[Up]:
    """`quire up` on these ports, until it ends; killed with all below it if it does not."""
    flags = [f"--{name}-port={port}" for name, port in zip(SERVICES, ports, strict=True)]
    flags += [f"--drain-seconds={drain_seconds}", "--executor.dtype=float32", "--log-level=warning"]
    running = Up(subprocess.Popen([sys.executable, "-m", "quire.services.cli", "up", *flags]), ports)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            for process in reversed(running.tree()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        running.process.wait()


async def consume(channel: grpc.aio.Channel, max_tokens: int, begun: asyncio.Event) -> tuple[grpc.StatusCode, str]:
    """Reads a stream to its end: its status, with "complete" if the last message carried `finish`."""
    sampling = pb.SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    request = pb.GenerateRequest(text="def f(", sampling=sampling)
    call = inference_pb2_grpc.InferenceServiceStub(channel).GenerateStream(request)
    last = pb.GenerateStreamResponse()
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for last in call:  # noqa: B007
            begun.set()
    return await call.code(), "complete" if last.HasField("finish") else "cut off"


async def until_draining(channel: grpc.aio.Channel) -> None:
    """Returns when the service has obeyed the first signal; two at once would be one."""
    stub = health_pb2_grpc.HealthStub(channel)
    # A question that meets the GOAWAY on its way is cancelled: that says it, too.
    with suppress(grpc.aio.AioRpcError):
        async with asyncio.timeout(PROMPT_SECONDS):
            async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
                if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                    return


def test_a_scheduler_without_a_standby_lets_what_is_open_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_and_new() -> tuple[tuple[grpc.StatusCode, str], ...]:
        async with grpc.aio.insecure_channel(stack.frontend) as channel:
            begun = asyncio.Event()
            stream = asyncio.create_task(consume(channel, 1900, begun))
            await begun.wait()
            os.kill(stack.child("scheduler").pid, signal.SIGTERM)
            await until_draining(channel)
            refused = await consume(channel, 1, asyncio.Event())
            return await stream, refused

    monkeypatch.setenv("QUIRE_SCHEDULER_DRAIN_SECONDS", str(TOO_LONG))
    with launch(DEMO_MODEL) as stack:
        ended, refused = asyncio.run(open_and_new())
        assert ended == (grpc.StatusCode.OK, "complete")
        assert refused == (grpc.StatusCode.UNAVAILABLE, "cut off")
        assert stack.call(stack.child("scheduler").wait()) == 0
        stack.start("scheduler")
        stack.until_serving()


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)],
    ids=lambda number: number.name,
)
async def test_a_signal_ends_everything(number: signal.Signals, ports: tuple[int, ...]) -> None:
    """The second round also shows that the ports of the first can be had again at once."""
    with up(ports, DRAIN_SECONDS) as running:
        async with asyncio.timeout(STARTUP_SECONDS):
            await is_serving(running.frontend)
        async with grpc.aio.insecure_channel(running.frontend) as channel:
            begun = [asyncio.Event() for _ in range(NUM_STREAMS)]
            lengths = [8 if index % 4 == 0 else 1900 for index in range(NUM_STREAMS)]
            streams = [
                asyncio.create_task(consume(channel, length, event))
                for length, event in zip(lengths, begun, strict=True)
            ]
            await asyncio.gather(*(event.wait() for event in begun))
            processes = running.tree()
            assert len(processes) == 5
            running.process.send_signal(number)
            async with asyncio.timeout(60):
                outcomes = await asyncio.gather(*streams)
        assert await asyncio.to_thread(running.process.wait, 60) == 0
    assert set(outcomes) == {
        (grpc.StatusCode.OK, "complete"),
        (grpc.StatusCode.UNAVAILABLE, "cut off"),
    }
    assert all(outcomes[index] == (grpc.StatusCode.OK, "complete") for index in range(0, NUM_STREAMS, 4))
    assert not [process for process in processes if process.is_running()]
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex((LOOPBACK, port)) != 0


def await_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PROMPT_SECONDS)
    assert not alive


async def test_a_second_signal_ends_everything_at_once(ports: tuple[int, ...]) -> None:
    with up(ports, drain_seconds=TOO_LONG) as running:
        async with asyncio.timeout(STARTUP_SECONDS):
            await is_serving(running.frontend)
        async with grpc.aio.insecure_channel(running.frontend) as channel:
            begun = asyncio.Event()
            streams = [asyncio.create_task(consume(channel, 1900, begun)) for _ in range(NUM_STREAMS)]
            await begun.wait()
            processes = running.tree()
            running.process.send_signal(signal.SIGINT)
            await until_draining(channel)
            running.process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(running.process.wait, 60) == 130
            await asyncio.to_thread(await_gone, processes)
            assert "cut off" in {outcome for _, outcome in await asyncio.gather(*streams)}


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, pytest.param(signal.SIGHUP, marks=pytest.mark.long)],
    ids=lambda number: number.name,
)
@pytest.mark.usefixtures("hang_up")
async def test_nothing_is_left_whichever_way_it_ends(number: signal.Signals, ports: tuple[int, ...]) -> None:
    with up(ports) as running:
        async with asyncio.timeout(STARTUP_SECONDS):
            await is_serving(running.frontend)
        processes = running.tree()
        assert len(processes) == 5
        running.process.send_signal(number)
        expected = 0 if number is signal.SIGHUP else -number
        assert await asyncio.to_thread(running.process.wait, 60) == expected
        await asyncio.to_thread(await_gone, processes)


def test_the_demo_leaves_nothing_either() -> None:
    command = [sys.executable, "-m", "quire.services.cli", "demo", "--max-tokens=2000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        # The prompt is there, so all have started.
        assert demo.stdout.read(3) == "def"
        processes = psutil.Process(demo.pid).children(recursive=True)
        assert len(processes) == 4
        demo.terminate()
        _, errors = demo.communicate(timeout=60)
    assert "Traceback" not in errors
    assert demo.returncode == 1
    await_gone(processes)


@pytest.mark.parametrize("seconds", [0, 1.5])
def test_ctrl_c_while_a_service_starts(seconds: float) -> None:
    """In whatever it is, once it has begun to import the engine: imports, weights."""
    command = [sys.executable, "-m", "quire.services.cli", "executor", f"--listen={LOOPBACK}:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as starting:
        process = psutil.Process(starting.pid)
        while not any("libtorch" in mapped.path for mapped in process.memory_maps()):
            time.sleep(0.01)
        time.sleep(seconds)
        starting.send_signal(signal.SIGINT)
        _, errors = starting.communicate(timeout=60)
    assert "Traceback" not in errors
    # 0: it served already; 130: the command had begun, and says so as a shell would.
    assert starting.returncode in (0, -signal.SIGINT, 128 + signal.SIGINT)


async def test_lines_of_any_length_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    text = "import sys; sys.stdout.write('x' * 3_000_000 + '\\nlast')"
    child = await Child.start(Program("long", (sys.executable, "-c", text)))
    assert await asyncio.wait_for(child.wait(), 60) == 0
    assert child.last_line == "last"
    passed = capfd.readouterr().err
    assert passed.count("x") == 3_000_000
    assert max(map(len, passed.splitlines())) <= 3 * LONGEST_LINE


async def test_one_that_does_not_stop_is_killed() -> None:
    text = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"
    )
    child = await Child.start(Program("deaf", (sys.executable, "-c", text), is_quiet=True))
    while child.last_line != "here":
        await asyncio.sleep(0.02)
    async with asyncio.timeout(60):
        assert await child.stop(0.1) == -signal.SIGKILL


@pytest.fixture(scope="module")
def own_stack() -> Iterator[RunningStack]:
    with launch(DEMO_MODEL) as running:
        yield running


@pytest.mark.parametrize("service", ["frontend", "scheduler", "executor"])
async def test_each_service_stops_alone(own_stack: RunningStack, service: str) -> None:
    await asyncio.to_thread(own_stack.until_serving)
    async with AsyncClient(own_stack.frontend) as client:
        params = SamplingParams(temperature=0, max_tokens=1500, ignore_eos=True)
        stream = client.generate_stream("def f(", params)
        await anext(stream)
        code = await asyncio.to_thread(own_stack.signal, service, signal.SIGTERM)
        assert code == 0
        for other in {"frontend", "scheduler", "executor"} - {service}:
            assert own_stack.child(other).is_running
        await stream.aclose()
    await asyncio.to_thread(own_stack.start, service)
    await asyncio.to_thread(own_stack.until_serving)
    await own_stack.assert_settled()


async def test_watching_the_health_of_a_frontend_that_ends() -> None:
    own, other = islice(free_ports(), 2)
    place = f"{LOOPBACK}:{own}"
    flags = [f"--listen={place}", "--http-listen=", f"--scheduler={LOOPBACK}:{other}", "--drain-seconds=0"]
    command = [sys.executable, "-m", "quire.services.cli", "frontend", *flags, "--log-level=error"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    async with grpc.aio.insecure_channel(place) as channel:
        await asyncio.wait_for(channel.channel_ready(), STARTUP_SECONDS)
        stub = health_pb2_grpc.HealthStub(channel)
        # Two of one name, and one of a name that is not known.
        calls = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "", "unknown")]
        for call in calls:
            await call.read()
        process.terminate()
        _, errors = await asyncio.wait_for(process.communicate(), PROMPT_SECONDS)
        assert [await call.code() for call in calls] == [grpc.StatusCode.UNAVAILABLE] * len(calls)
    assert (process.returncode, errors) == (0, b"")
