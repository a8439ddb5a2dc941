"""Clients in other languages against the services: each calls in every way, and gets what the Python client gets."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from quire.clients.async_client import AsyncClient
from quire.engine.api.completion import Completion
from quire.engine.api.sampling import SamplingParams
from quire.engine.demo_model import DEMO_MODEL
from support.stacks import RunningStack, another_frontend, launch

pytestmark = pytest.mark.clients

ROOT = Path(__file__).resolve().parents[2]
# `tools/clients.sh` makes them; conformance.js says what they call and print.
PROGRAMS = {
    "node": ("node", "clients/node/conformance.js"),
    "cpp": ("build/clients/cpp/conformance",),
    "go": ("build/clients/go/conformance",),
}
PROMPT = "def mean(values):\n"
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
SEEDED = SamplingParams(seed=2**64 - 1, max_tokens=24, ignore_eos=True)
LONG = SamplingParams(temperature=0, max_tokens=1200, ignore_eos=True)


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    with launch(DEMO_MODEL, executor={"num_blocks": 256}) as running:
        yield running


async def run(program: str, *arguments: str) -> str:
    command = (*PROGRAMS[program], *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, problems = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, problems.decode()
    return printed.decode()


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_client_gets_what_the_python_client_gets(stack: RunningStack, program: str) -> None:
    async with AsyncClient(stack.frontend) as client, another_frontend(stack, max_requests=1) as full:
        async with AsyncClient(full) as crowd:
            stream = crowd.generate_stream(PROMPT, LONG)
            await anext(stream)
            found: dict[str, Any] = json.loads(await run(program, stack.frontend, full))
            await stream.aclose()
        greedy, seeded = await client.generate(PROMPT, GREEDY), await client.generate(PROMPT, SEEDED)
        tokens = list(await client.tokenize(PROMPT))

    def as_found(answer: Completion) -> dict[str, Any]:
        return {"text": answer.text, "token_ids": list(answer.token_ids), "reason": "FINISH_REASON_LENGTH"}

    assert found["unary"] == {**as_found(greedy), "prompt_tokens": len(tokens)}
    num_pieces = [answer.pop("num_pieces") for answer in (found["stream"], *found["many"])]
    assert all(1 < number <= 24 for number in num_pieces)
    assert found["stream"] == as_found(seeded)
    assert found["many"] == [as_found(greedy), as_found(seeded)]
    assert found["tokens"] == tokens

    for cancelled in (found["cancelled"], found["cancelled_of_many"]):
        assert cancelled["code"] == grpc.StatusCode.CANCELLED.value[0]
    assert found["cancelled_of_many"]["message"] == "cancelled by the client"
    assert found["refused"]["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert found["refused"]["message"] == "sampling.top_p: must be above 0 and at most 1, got 2.0"
    assert found["refused"]["retry_ms"] is None
    assert found["overloaded"]["code"] == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert found["overloaded"]["retry_ms"] > 0
    await stack.assert_settled()


@pytest.mark.parametrize(
    ("flag", "file", "line"),
    [
        ("java_out", "quire/v1/GenerateRequest.java", "package quire.v1;"),
        ("csharp_out", "Inference.cs", "namespace Quire.V1 {"),
        ("go_out", "quire/v1/inference.pb.go", "package quirev1"),
    ],
)
async def test_other_languages_generate_without_flags(tmp_path: Path, flag: str, file: str, line: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "protoc", "-I", ROOT / "protos", f"--{flag}={tmp_path}", "quire/v1/inference.proto"
    )
    assert await process.wait() == 0
    assert line in (tmp_path / file).read_text().splitlines()
