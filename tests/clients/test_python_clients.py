"""Python clients of other projects, unmodified and in an environment of their own: of langchain, litellm and OpenAI."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from support.chat_scripts import ANSWER, CALLED, PLAIN, write_chat_model
from support.stacks import RunningStack, launch

pytestmark = pytest.mark.clients
# `make test-clients` makes it.
PYTHON: Final = Path(os.environ.get("QUIRE_CLIENTS_PYTHON", ".venv/clients/bin/python"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with launch(write_chat_model(tmp_path_factory.mktemp("models") / "scripted"), executor={"num_blocks": 256}) as made:
        yield made


def answers(stack: RunningStack, script: str) -> dict[str, Any]:
    """What a script of this folder prints."""
    command = [PYTHON, Path(__file__).parent / script, f"http://{stack.http}/v1", "scripted"]
    # It would ask the net for prices of models.
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ["langchain", "litellm"])
def test_chats_tools_and_streams(stack: RunningStack, name: str) -> None:
    found = answers(stack, f"{name}_chat.py")
    assert {found[key] for key in ("plain", "asynchronous", "stream")} == {PLAIN}
    assert found["answer"] == ANSWER
    for key in ("calls", "streamed_calls"):
        assert [tuple(call) for call in found[key]] == CALLED
    assert found["tokens"] > 10
    assert found.get("reasoning", "Füßen is a town.") == "Füßen is a town."


def test_responses_with_tools_and_streams(stack: RunningStack) -> None:
    found = answers(stack, "agents_responses.py")
    assert {found[key] for key in ("plain", "stream")} == {PLAIN}
    assert {found[key] for key in ("agent", "streamed_agent", "answer")} == {ANSWER}
    assert [tuple(call) for call in found["calls"]] == CALLED
    assert found["kinds"] == [
        "ReasoningItem", "MessageOutputItem", *["ToolCallItem"] * 2, *["ToolCallOutputItem"] * 2, "MessageOutputItem",
    ]  # fmt: skip
