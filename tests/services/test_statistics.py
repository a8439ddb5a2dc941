"""`quire stats` and its API: what the scheduler counts is what happened."""

import asyncio
import json
from typing import Any

import pytest

from quire.clients.client import Client
from quire.engine.api.sampling import SamplingParams
from quire.engine.llm import LLM
from quire.services.cli import main
from support.stacks import RunningStack

BLOCK_SIZE = 16
# Of no other test: what is reused is counted.
PROMPT = [9 + 5 * i for i in range(3 * BLOCK_SIZE + 3)]
SHORT = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)


def counted(stack: RunningStack, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["stats", "--scheduler", stack.stack.schedulers[0], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (executor,) = answer["executors"]
    assert executor["name"] == stack.stack.executors[0]
    assert executor["num_blocks"] == executor["num_free"] + executor["num_cached"] + executor["num_held"]
    return executor


def test_reuse_is_counted_where_the_scheduler_runs(stack: RunningStack, capsys: pytest.CaptureFixture[str]) -> None:
    before = counted(stack, capsys)
    with Client(stack.frontend) as client:
        for _ in range(2):
            client.generate(PROMPT, SHORT)
    asyncio.run(stack.assert_settled())
    after = counted(stack, capsys)
    grown = {name: after[name] - before[name] for name in after if name.startswith("num_")}
    assert grown["num_context_tokens"] == 2 * len(PROMPT)
    assert grown["num_reused_tokens"] == 3 * BLOCK_SIZE
    assert grown["num_steps"] >= 4
    assert (after["num_waiting"], after["num_running"], after["num_held"]) == (0, 0, 0)


def test_the_table_has_a_row_for_every_executor(stack: RunningStack, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--scheduler", stack.stack.schedulers[0]]) == 0
    head, names, row = capsys.readouterr().out.splitlines()
    assert head.startswith("epoch ")
    assert names.split()[:3] == ["executor", "waiting", "running"]
    assert row.split()[0] == stack.stack.executors[0]
    assert len(row.split()) == len(names.split())


def test_nobody_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--scheduler", "127.0.0.1:1", "--timeout", "0.5"]) == 1
    assert capsys.readouterr().err.startswith("quire stats: error: --scheduler 127.0.0.1:1: ")


def test_in_process() -> None:
    with LLM(num_blocks=32) as llm:
        llm.generate([PROMPT, PROMPT], SHORT)
        statistics = llm.statistics()
    assert statistics.num_context_tokens == 2 * len(PROMPT)
    assert statistics.num_reused_tokens == 3 * BLOCK_SIZE
