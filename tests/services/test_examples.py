"""Every example runs as it is written, against running services: programs and those of the documents."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from support.stacks import RunningStack

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DOCUMENTS = ("README.md", "docs/quick_start.md", "docs/clients.md")
# A line that each must print.
WANTED = {
    "in_process": "",
    "sync_client": "refused: sampling.top_p: must be above 0 and at most 1, got 7",
    "streaming": "[stop]",
    "async_multiplexed": "def f7(",
    "http_completion": "",
}


def test_every_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(WANTED)
    assert all(f"[{name}.py]({name}.py)" in (EXAMPLES / "README.md").read_text() for name in WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_an_example(
    stack: RunningStack, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = {"in_process": [], "http_completion": [stack.http]}.get(name, [stack.frontend])
    monkeypatch.setattr(sys, "argv", [name, *addresses])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert any(line.startswith(WANTED[name]) for line in printed.splitlines())
    assert len(printed) > 20


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_examples_of_a_document(stack: RunningStack, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        exec(compile(example.replace("127.0.0.1:8001", stack.frontend), name, "exec"), {})
        assert len(capsys.readouterr().out) > 20
