"""`quire top`: what it draws is what the scheduler says, in a terminal and without one."""

import re
import signal
import sys

import numpy as np
import pexpect
import pytest
from rich.console import Console

from quire.clients.client import Client
from quire.clients.top.block_bar import CACHED, FREE, HELD, block_bar
from quire.clients.top.view import draw
from quire.clients.top.view_state import ViewState
from quire.engine.api.sampling import SamplingParams
from quire.internal.v1 import scheduler_pb2 as pb
from quire.protos.block_map import BlockKind, block_state, pack_all
from quire.services.cli import main
from support.stacks import RunningStack

# Far more than it takes: a busy machine must not fail a test.
SECONDS = 90.0


def test_once_prints_what_is_now(stack: RunningStack, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(stack.frontend) as client:
        client.generate([7 + 5 * i for i in range(40)], SamplingParams(temperature=0, max_tokens=2))
    # Of several, the one that leads is asked.
    assert main(["top", "--scheduler", f"127.0.0.1:1,{stack.stack.schedulers[0]}", "--once"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert re.search(rf"{re.escape(stack.stack.executors[0])}  0 running  0 waiting  \d+ blocks: 0 held, [1-9]", shown)
    assert CACHED in shown
    assert "no request is open" in shown
    assert "is attached" in shown


def test_a_terminal_is_left_as_it_was(stack: RunningStack) -> None:
    command = ["-m", "quire.services.cli", "top", "--scheduler", stack.stack.schedulers[0]]
    terminal = pexpect.spawn(sys.executable, command, timeout=SECONDS, encoding="utf-8", dimensions=(30, 100))
    terminal.expect_exact("\x1b[?1049h")
    terminal.expect_exact(stack.stack.executors[0])
    terminal.kill(signal.SIGINT)
    terminal.expect_exact("\x1b[?1049l")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_nobody_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--scheduler", "127.0.0.1:1", "--once", "--timeout", "0.5"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("quire top: error: --scheduler 127.0.0.1:1: ")
    assert captured.out == ""


def test_a_scheduler_that_goes_and_comes_is_told_of() -> None:
    state = ViewState()
    states = np.array([block_state(0, BlockKind.FREE), block_state(2, BlockKind.HELD)], np.int32)
    statistics = pb.ExecutorStatistics(name="a:1", num_blocks=2, num_free=1, num_held=1, num_running=1)
    executor = pb.ExecutorSnapshot(statistics=statistics, block_runs=pack_all(states), is_whole=True)
    requests = [pb.RequestSnapshot(request_id=f"name-{n}[b]", state=pb.REQUEST_STATE_GENERATION) for n in range(9)]
    events = [pb.ServiceEvent(number=1, level=pb.EVENT_LEVEL_CHANGE, text="it began")]
    snapshot = pb.Snapshot(epoch=1, executors=[executor], requests=requests, events=events)
    state.take(snapshot)
    state.lose("it died")
    state.lose("it is still away")
    console = Console(width=100, color_system=None, record=True)
    console.print(draw(state, "s:1", 100, height=22))
    drawn = console.export_text()
    assert f"{FREE}{HELD}" in drawn
    assert "name-0[b]" in drawn
    assert re.search("and [1-9] others", drawn)
    state.take(snapshot)
    assert [each.text for each in state.happenings] == [
        "it began",
        "the scheduler is gone: it died",
        "the scheduler is back",
    ]


def test_a_character_of_several_blocks_is_what_most_are() -> None:
    kinds = [BlockKind.FREE] * 700 + [BlockKind.CACHED] * 200 + [BlockKind.SHARED] * 100
    bar = block_bar(np.array([block_state(5, kind) for kind in kinds], np.int32), width=20, max_lines=5)
    lines = bar.plain.split("\n")
    assert [len(line) for line in lines] == [20] * 5
    assert "".join(lines) == FREE * 70 + CACHED * 20 + HELD * 10
