"""`quire chat` in a terminal, as somebody types in it."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from support.event_server import event_server
from support.scripted_model import write_scripted_model
from support.stacks import RunningStack, launch

TEMPLATE = "{%- for message in messages -%}[{{ message.role }}] {{ message.content }}\n{% endfor -%}P"
ANSWER = "# A title\n\nSome **bold** text.\n\n- one\n- two"
ESCAPE = r"(?:\x1b\[[0-9;?]*[A-Za-z])"
CTRL_C, CTRL_D, ALT_ENTER = "\x03", "\x04", "\x1b\r"
PROMPT = "›"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = write_scripted_model(tmp_path_factory.mktemp("models") / "scripted", {"P": ANSWER}, TEMPLATE)
    with launch(folder, executor={"num_blocks": 256}) as running:
        yield running


def drawn(text: str) -> str:
    """A pattern of the text in whatever colours."""
    return f"{ESCAPE}*".join(map(re.escape, text))


@contextmanager
def chatting(url: str, folder: Path, *flags: str) -> Iterator[pexpect.spawn]:
    """A chat at its first prompt."""
    arguments = ["-m", "quire.services.cli", "chat", f"--url={url}", f"--history={folder}/history", *flags]
    # This terminal does not say where its cursor is.
    env = os.environ | {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(
        sys.executable, arguments, cwd=folder, env=env, encoding="utf-8", timeout=60, dimensions=(40, 100)
    )
    try:
        child.expect(PROMPT)
        yield child
    finally:
        child.close(force=True)


def end(child: pexpect.spawn) -> None:
    child.send(CTRL_D)
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def saved(child: pexpect.spawn, folder: Path) -> list[dict[str, str]]:
    child.send("/save chat.json\r")
    child.expect(drawn("saved to chat.json"))
    child.expect(PROMPT)
    messages: list[dict[str, str]] = json.loads((folder / "chat.json").read_text())
    return messages


def test_a_conversation(stack: RunningStack, tmp_path: Path) -> None:
    with chatting(f"http://{stack.http}", tmp_path, "--system=Be brief.") as child:
        child.send("Hello\r")
        child.expect(drawn("• two"))
        child.expect(PROMPT)
        child.send(f"line one\\\rline two{ALT_ENTER}line three\r")
        child.expect(drawn("• two"))
        child.expect(PROMPT)
        roles = [(message["role"], message["content"]) for message in saved(child, tmp_path)]
        assert roles == [
            ("system", "Be brief."),
            ("user", "Hello"),
            ("assistant", ANSWER),
            ("user", "line one\nline two\nline three"),
            ("assistant", ANSWER),
        ]
        end(child)
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600
    assert "+Hello\n" in (tmp_path / "history").read_text()


def test_markdown_is_drawn(stack: RunningStack, tmp_path: Path) -> None:
    with chatting(f"http://{stack.http}", tmp_path) as child:
        child.send("Hello\r")
        child.expect(drawn("A title"))
        child.expect(f"Some {ESCAPE}*\x1b\\[1mbold\x1b\\[0m{ESCAPE}* text")
        child.expect(drawn("• one"))


def test_ctrl_c_stops_an_answer_and_not_the_chat(tmp_path: Path) -> None:
    with event_server() as server, chatting(server.url, tmp_path) as child:
        server.events, server.hangs = ['data: {"choices": [{"delta": {"content": "The beginning"}}]}\n\n'], True
        child.send("Hello\r")
        child.expect(drawn("The beginning"))
        child.send(CTRL_C)
        child.expect(drawn("(stopped)"))
        child.expect(PROMPT)
        assert server.left.wait(60)
        assert [message["content"] for message in saved(child, tmp_path)] == ["Hello", "The beginning"]
        child.send(f"never sent{CTRL_C}")
        child.expect(PROMPT)
        assert len(saved(child, tmp_path)) == 2
        end(child)


def test_it_needs_a_terminal_and_a_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quire.services.cli", "chat", "--url=http://127.0.0.1:1"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    said = "quire chat: error: needs a terminal; `quire generate -` reads standard input\n"
    assert (done.returncode, done.stderr) == (1, said)
    child = pexpect.spawn(sys.executable, command[1:], encoding="utf-8", timeout=120)
    child.expect("quire chat: error: http://127.0.0.1:1: Connection refused")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 1
