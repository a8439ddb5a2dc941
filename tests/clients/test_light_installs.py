"""Environments with the wheel and one extra: without torch, or without a compiler; against services in this one."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quire.clients.client import Client
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from quire.services.up.ports import LOOPBACK, free_port
from quire.services.up.stack import is_serving
from support.stacks import RunningStack, launch
from support.wheel import ROOT, build, copy_checkout, run

pytestmark = pytest.mark.clients

PROMPT = "def mean(values):"
PARAMS = SamplingParams(temperature=0, max_tokens=24)
MISSING = "import importlib.util, sys; print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name)])"


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with launch(DEMO_MODEL, executor={"num_blocks": 256}) as running:
        yield running


@pytest.fixture(scope="module")
def text(stack: RunningStack) -> str:
    with Client(stack.frontend) as client:
        return client.generate(PROMPT, PARAMS).text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaging")
    return build(copy_checkout(folder / "checkout"), "wheel", folder / "wheel")


def environment(folder: Path, requirement: str) -> Path:
    """A new environment's folder of programs."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", requirement, cwd=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("bare") / "venv", str(wheel))


@pytest.fixture(scope="module")
def scheduler(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("scheduler") / "venv", f"{wheel}[scheduler]")


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the wheel that carries compiled kernels."""
    folder = tmp_path_factory.mktemp("executor")
    checkout = copy_checkout(folder / "checkout")
    run("make", "wheel", f"BIN={ROOT / '.venv/bin'}", f"STAMP={ROOT / '.venv/.stamp'}", cwd=checkout)
    (wheel,) = (checkout / "dist").iterdir()
    return environment(folder / "venv", f"{wheel}[executor]")


@pytest.fixture(scope="module")
def frontend(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("frontend") / "venv", f"{wheel}[frontend]")


def generated(programs: Path, address: str) -> str:
    flags = ("--address", address, "--temperature", "0", "--max-tokens", "24")
    return run(programs / "quire", "generate", *flags, PROMPT, cwd=programs)


def test_a_bare_installation_is_a_client(bare: Path, stack: RunningStack, text: str) -> None:
    heavy = ("torch", "tokenizers", "redis", "uvicorn")
    assert run(bare / "python", "-c", MISSING, *heavy, cwd=bare).split() == []
    assert generated(bare, stack.frontend).rstrip("\n") == text.rstrip("\n")
    assert stack.stack.executors[0] in run(bare / "quire", "stats", "--scheduler", stack.stack.schedulers[0], cwd=bare)


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("frontend", "frontend"),
        ("scheduler", "scheduler"),
        ("executor", "executor"),
        ("up", "frontend,scheduler,executor"),
        ("bench latency", "executor"),
        ("chat", "chat"),
    ],
)
def test_a_command_that_lacks_packages_names_its_extra(bare: Path, words: str, extra: str) -> None:
    done = subprocess.run([bare / "quire", *words.split()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"quire {words}: error: not installed: ")
    assert done.stderr.endswith(f"pip install 'quire[{extra}]'\n")


def test_the_engine_in_process_names_its_extra(bare: Path) -> None:
    done = subprocess.run([bare / "python", "-c", "from quire import LLM"], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("pip install 'quire[executor]'")


@asynccontextmanager
async def service(programs: Path, name: str, log: Path, **settings: str) -> AsyncIterator[str]:
    """A service of an environment, which finds no other programs, once it is SERVING; its address."""
    place = f"{LOOPBACK}:{free_port()}"
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in {"listen": place, **settings}.items()]
    # No compiler on the path, nothing compiled before.
    variables = {**os.environ, "PATH": str(programs), "XDG_CACHE_HOME": str(log.parent / "cache")}
    with log.open("w") as lines:
        process = await asyncio.create_subprocess_exec(
            programs / "quire", name, *flags, env=variables, stdout=lines, stderr=lines
        )
    try:
        await is_serving(place)
        yield place
    finally:
        process.terminate()
        assert await process.wait() == 0, log.read_text()


async def test_a_frontend_does_without_torch(frontend: Path, stack: RunningStack, text: str, tmp_path: Path) -> None:
    assert run(frontend / "python", "-c", MISSING, "torch", "redis", cwd=frontend).split() == []
    settings = {"http_listen": "", "scheduler": stack.stack.schedulers[0], "model": str(DEMO_MODEL)}
    async with service(frontend, "frontend", tmp_path / "log", **settings) as place:
        answer = await asyncio.to_thread(generated, frontend, place)
    assert answer.rstrip("\n") == text.rstrip("\n")


# Compiles the kernels four times.
@pytest.mark.timeout(1500)
async def test_a_scheduler_does_without_torch_and_an_executor_without_a_compiler(
    frontend: Path, scheduler: Path, executor: Path, stack: RunningStack, text: str, tmp_path: Path
) -> None:
    assert run(scheduler / "python", "-c", MISSING, "torch", "tokenizers", "uvicorn", cwd=scheduler).split() == []
    redis = f"{stack.stack.redis.removesuffix('/0')}/1"
    async with (
        service(executor, "executor", tmp_path / "executor.log", num_blocks="256") as computes,
        service(scheduler, "scheduler", tmp_path / "scheduler.log", redis=redis, executors=computes) as decides,
        service(frontend, "frontend", tmp_path / "frontend.log", http_listen="", scheduler=decides) as place,
    ):
        answer = await asyncio.to_thread(generated, frontend, place)
    assert answer.rstrip("\n") == text.rstrip("\n")
    assert "computing with C++ kernels for " in (tmp_path / "executor.log").read_text()
    assert not (tmp_path / "cache" / "quire").exists()
