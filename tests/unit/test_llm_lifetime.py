"""The end of an `LLM`: by its last reference, by the end of the program, in a forked child."""

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from quire.engine.api.errors import StartupError
from quire.engine.api.sampling import SamplingParams
from quire.engine.config import SchedulerConfig
from quire.engine.executor import Executor
from quire.engine.llm import LLM
from quire.engine.worker_thread import EngineOwnThread, WorkerThread
from support.models import write_model

GREEDY = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)

PROGRAM = """
import logging, os, sys, threading
from quire import LLM, SamplingParams

# Development mode also reports steps that take long, which depends on the machine.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing "))

LONG = SamplingParams(temperature=0, max_tokens=1500, ignore_eos=True)
llm = LLM(num_blocks=256)
"""


def run_program(text: str) -> "subprocess.CompletedProcess[str]":
    """A program that has made an LLM of the demo model, in Python's development mode."""
    # PyTorch and others use what Python deprecates.
    command = [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", PROGRAM + text]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> "weakref.WeakSet[Executor]":
    """Those that are still in memory."""
    alive: weakref.WeakSet[Executor] = weakref.WeakSet()
    make = Executor.__init__

    def remember(self: Executor, *arguments: Any) -> None:
        alive.add(self)
        make(self, *arguments)

    monkeypatch.setattr(Executor, "__init__", remember)
    return alive


def own_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if isinstance(each, EngineOwnThread)]


def test_the_last_reference_frees_threads_and_memory(folder: Path, executors: "weakref.WeakSet[Executor]") -> None:
    before = own_threads()
    llm, other = LLM(str(folder), num_blocks=64), LLM(str(folder), num_blocks=64)
    assert len(llm.generate("a", GREEDY)) == len(executors) - 1 == 1
    stream = llm.generate_stream("a", SamplingParams(max_tokens=900, ignore_eos=True))
    next(stream)
    del llm
    assert len(executors) == 2, "the stream still needs it"
    del stream
    assert len(executors) == 1
    assert len(other.generate("a", GREEDY)) == 1
    other.close()
    assert len(executors) == 0
    assert own_threads() == before


def test_one_in_a_cycle_of_references(folder: Path, executors: "weakref.WeakSet[Executor]") -> None:
    before = own_threads()
    llm: Any = LLM(str(folder), num_blocks=64)
    llm.itself = llm
    del llm
    gc.collect()
    assert len(executors) == 0
    assert own_threads() == before


def test_the_collector_may_come_by_on_any_thread(folder: Path, executors: "weakref.WeakSet[Executor]") -> None:
    llm, worker = LLM(str(folder), num_blocks=64), WorkerThread("a thread as the engine's own")
    held = [llm]
    del llm
    worker.submit(held.clear).result()
    worker.shutdown()
    for thread in threading.enumerate():
        if thread.name == "quire-close":
            thread.join()
    assert len(executors) == 0


def test_one_that_cannot_be_made_leaves_nothing(folder: Path, executors: "weakref.WeakSet[Executor]") -> None:
    before = own_threads()
    with pytest.raises(StartupError, match="capacity_policy"):
        LLM(str(folder), num_blocks=64, scheduler=SchedulerConfig(capacity_policy="NONE"))
    gc.collect()
    assert len(executors) == 0
    assert own_threads() == before


def test_a_program_that_closes_nothing() -> None:
    done = run_program("""
other = LLM(num_blocks=256)
stream = other.generate_stream("a", LONG)
next(stream)
threading.Thread(target=lambda: print(len(llm.generate("a", LONG)[0].token_ids))).start()
sys.exit(3)
""")
    assert (done.returncode, done.stdout, done.stderr) == (3, "1500\n", "")


def test_a_forked_child() -> None:
    done = run_program("""
stream = llm.generate_stream("a", LONG)
first = next(stream)
if (child := os.fork()) == 0:
    for call in (lambda: llm.generate("a"), llm.statistics, lambda: next(stream)):
        try:
            call()
        except Exception as error:
            print(type(error).__name__, str(error).replace(str(os.getpid()), "CHILD").replace(str(os.getppid()), "ME"))
    sys.exit(4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sum(len(each.token_ids) for each in (first, *stream)))
""")
    said = (
        "RequestError this LLM belongs to process ME, and process CHILD is a fork of it without its threads; make an "
        "LLM in the child, or start the child with the method 'spawn'\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{said * 3}4 1500\n", "")


def test_a_worker_thread_that_is_shut_down() -> None:
    worker, begun, go_on = WorkerThread("worker"), threading.Event(), threading.Event()

    def wait() -> int:
        begun.set()
        go_on.wait()
        return 5

    running = worker.submit(wait)
    begun.wait()
    waiting = worker.submit(wait)
    worker.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    worker.shutdown()
    assert running.result() == 5
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        worker.submit(wait)
